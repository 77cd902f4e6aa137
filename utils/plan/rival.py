"""The same cases asked of llm-analysis (cli99/llm-analysis, on PyPI), to print beside the planner's answers.

It is not installed with the course: pip install --target FOLDER --no-deps llm-analysis, and PYTHONPATH=FOLDER. It
needs the share of peak that will be reached as an input; it gets 0.5, what its own README assumes. Pipeline bubble and
the traffic of data and pipeline ranks are not in its time, so it answers high or low according to how much of them
there is.
"""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

from utils.plan.published import Case

EFFICIENCY = 0.5


def load() -> Any:
    """Import it; None if it is not installed. Its command line's library is not needed for its functions."""
    sys.modules.setdefault("fire", types.ModuleType("fire"))
    try:
        from llm_analysis import analysis, config  # type: ignore[import-not-found]
    except ImportError:
        return None
    logging.getLogger("llm_analysis").setLevel(logging.ERROR)
    analysis.logger.setLevel(logging.ERROR)
    return types.SimpleNamespace(analysis=analysis, config=config)


def ask(tool: Any, case: Case) -> dict[str, float] | None:
    """Ask for a case: seconds of a step, bytes held by states, by activations. None where it cannot answer."""
    m, lay, gpu = case.model, case.layout, case.cluster.gpu
    if lay.context > 1:
        return None
    config, analysis = tool.config, tool.analysis
    machine = config.GPUConfig(
        gpu.name, gpu.memory / 2**30, gpu.memory_bandwidth / 1e9, gpu.link / 1e9, 8e-6, gpu.peak / 1e12,
        inter_node_bandwidth_in_GB_per_sec=case.cluster.net.per_gpu * case.cluster.gpus_per_node / 1e9,
    )  # fmt: skip
    split = config.ParallelismConfig(
        lay.tensor, lay.pipeline, lay.data, sp_size=lay.tensor if lay.sequence_parallel else None
    )
    recompute = {"none": 0, "selective": 1, "alternate": 1, "full": 2}[lay.recompute]
    try:  # it refuses some shapes, such as an MLP whose width is no multiple of hidden
        shape = config.ModelConfig(
            m.name or "model", m.layers, m.heads, m.hidden, m.vocab, m.sequence, m.kv, ffn_embed_dim=m.width
        )
        found = analysis.LLMAnalysis(
            shape, machine, parallelism_config=split, flops_efficiency=EFFICIENCY, hbm_memory_efficiency=0.9
        ).training(
            batch_size_per_gpu=lay.micro_batch,
            gradient_accumulation_steps=lay.accumulate,
            seq_len=m.sequence,
            total_num_tokens=1e9,
            activation_recomputation=analysis.ActivationRecomputation(recompute),
            ds_zero=analysis.DSZeRO(lay.zero),
            flash_attn=bool(case.software.flash),
            mlp_gated_linear_units=m.gated,
            layernorm_dtype_bytes=2,
        )
    except (AssertionError, ZeroDivisionError, KeyError, TypeError, ValueError):
        return None
    states = found["(weight+op_state+grad)_memory_per_gpu"]
    return {
        "seconds": found["latency_per_iter"],
        "memory": found["(weight+op_state+grad+act)_memory_per_gpu"],
        "states": states,
        "activations": found["activation_memory_per_gpu"],
        "parameters": found["num_params_total"],
    }
