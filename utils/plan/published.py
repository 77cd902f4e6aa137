"""Published measurements as cases: a model, a cluster, a layout, and what was measured. For fitting and for the
scorecard.

The tables themselves are not part of the course. They are read from a folder: `--data`, else $PLAN_DATA, else
../shared/data beside the repository, if it is there.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from utils.plan import cluster as machines
from utils.plan import model as shapes
from utils.plan.cluster import Cluster, Software
from utils.plan.layout import Layout
from utils.plan.model import Model

DEFAULT = Path(__file__).parents[2] / ".." / "shared" / "data"


@dataclass(frozen=True)
class Case:
    """Hold one measured configuration. seconds, memory: what was measured, None where it was not (or did not run)."""

    section: str
    name: str
    model: Model
    cluster: Cluster
    layout: Layout
    software: Software
    seconds: float | None = None
    memory: float | None = None
    fitted: bool = False
    healthy: bool = True
    group: tuple = ()


def folder(given: str | None = None) -> Path | None:
    """Find the folder of the tables: the one given, else $PLAN_DATA, else the default; None if it is not there."""
    chosen = Path(given or os.environ.get("PLAN_DATA") or DEFAULT)
    return chosen if chosen.is_dir() else None


WHOLE = {
    "ultrascale_playbook_benchmarks_1b_8b": "ultrascale_playbook_benchmarks",
    "bloom176b_3d_topology_sweep_until_0224": "bloom176b_3d_topology_sweep",
    "zerobubble_table5_table9_1.5b_6.2b": "zerobubble_table5_table9",
}


def rows(data: Path, table: str) -> list[dict[str, str]]:
    """Read a table, or the fuller one of which it is a part; an empty list if neither is there."""
    for name in (WHOLE.get(table, table), table):
        path = data / f"{name}.csv"
        if path.exists():
            with path.open(newline="") as file:
                return list(csv.DictReader(file))
    return []


def korthikanti(data: Path) -> list[Case]:
    """Read the four models of arXiv:2205.05198, Table 5, with full and with selective recomputation. Never fitted."""
    found = []
    for row in rows(data, "korthikanti2022_table3_table5"):
        model = shapes.gpt(int(row["layers"]), int(row["hidden"]), int(row["heads"]), name=f"GPT {row['model']}")
        tensor, pipeline, virtual = int(row["tp"]), int(row["pp"]), int(row["interleave_v"])
        for mode, column in (("full", "iter_s_full_recompute"), ("selective", "iter_s_seqpar_plus_selective")):
            layout = Layout(
                tensor=tensor, pipeline=pipeline, zero=0, micro_batch=int(row["micro_batch"]), virtual=virtual,
                accumulate=int(row["global_batch"]) // int(row["micro_batch"]), recompute=mode,
                schedule="interleaved-1f1b" if virtual > 1 else "1f1b", sequence_parallel=mode == "selective",
            )  # fmt: skip
            machine = Cluster(tensor * pipeline, machines.A100)
            seconds = float(row[column])
            case = Case(
                "Korthikanti T5", f"{row['model']} {mode}", model, machine, layout, machines.MEGATRON_2022, seconds
            )
            found.append(case)
    return found


def sc21(data: Path) -> list[Case]:
    """Read arXiv:2104.04473, Table 1: the seconds follow from the printed operations, recomputation counted. Not
    fitted.
    """
    found = []
    for row in rows(data, "megatron_sc21_table1_weak_scaling"):
        layers, hidden, batch, gpus = (int(row[k]) for k in ("layers", "hidden", "global_batch", "gpus"))
        model = shapes.gpt(layers, hidden, int(row["heads"]), name=f"GPT {row['model']}")
        tensor, pipeline, micro = int(row["tp"]), int(row["pp"]), int(row["micro_batch"])
        each = row["layers_per_virtual_stage"]
        virtual = layers // pipeline // int(each) if each else 1
        data_ways = gpus // tensor // pipeline
        layout = Layout(
            data_ways, tensor, pipeline, zero=0, micro_batch=micro, accumulate=batch // data_ways // micro,
            virtual=virtual,
            schedule="interleaved-1f1b" if virtual > 1 else "1f1b", recompute="full", sequence_parallel=False,
        )  # fmt: skip
        seconds = sc21_seconds(model, batch, gpus, float(row["achieved_tflops_per_gpu"]))
        machine = Cluster(gpus, machines.A100)
        found.append(Case("SC'21 T1", row["model"], model, machine, layout, machines.MEGATRON_2021, seconds))
    return found


def sc21_seconds(model: Model, batch: int, gpus: int, tflops: float) -> float:
    """Turn SC'21's printed TFLOP/s into seconds: 96 B s l h^2 (1 + s/6h + V/16lh) operations (equation 3)."""
    s, h, layers, vocab = model.sequence, model.hidden, model.layers, model.vocab
    work = 96 * batch * s * layers * h * h * (1 + s / 6 / h + vocab / 16 / layers / h)
    return work / gpus / tflops / 1e12


def sc21_table2(data: Path) -> list[Case]:
    """Read arXiv:2104.04473, Table 2: 175B and 530B, pipelines with tensor ranks (175B is fitted), and ZeRO-3."""
    found = []
    for row in rows(data, "megatron_sc21_table2_ptd_vs_zero3"):
        big = row["params_b"].startswith("529")
        model = shapes.GPT_530B if big else shapes.GPT_175B
        gpus, batch, micro, ptd = int(row["gpus"]), int(row["batch"]), int(row["microbatch"]), row["scheme"] == "PTD"
        tensor, pipeline = (8, 35 if big else 12) if ptd else (1, 1)
        ways = gpus // tensor // pipeline
        layout = Layout(
            ways, tensor, pipeline, zero=0 if ptd else 3, micro_batch=micro, accumulate=batch // ways // micro,
            recompute="full", sequence_parallel=False,
        )  # fmt: skip
        seconds = sc21_seconds(model, batch, gpus, float(row["tflops_per_gpu"]))
        name = f"{row['scheme']} {row['params_b']}B {gpus} GPUs"
        software = machines.MEGATRON_2021 if ptd else machines.DEEPSPEED_2021
        machine = Cluster(gpus, machines.A100)
        section = "SC'21 T2 pipelines" if ptd else "SC'21 T2 ZeRO-3"
        found.append(Case(section, name, model, machine, layout, software, seconds, fitted=ptd and not big))
    return found


def tensor_scaling(data: Path) -> list[Case]:
    """Read Megatron-LM's table of 2020: tensor ranks 1 to 8 on A100, and the same with 128 data ranks. Fitted."""
    found = []
    for row in rows(data, "megatron_tp_scaling_v100_a100_2020"):
        if "A100" not in row["system"]:
            continue
        model = shapes.gpt(int(row["layers"]), int(row["hidden"]), int(row["heads"]), sequence=1024, name=row["case"])
        gpus, tensor = int(row["gpus"]), int(row["tp"])
        ways = gpus // tensor
        batch = int(row["batch"])
        layout = Layout(ways, tensor, zero=0, micro_batch=batch // ways, recompute="full", sequence_parallel=False)
        machine = Cluster(gpus, machines.A100_40, min(8, gpus))
        seconds = float(row["iter_ms"]) / 1e3
        name = f"{row['case']} tp{tensor} dp{ways}"
        found.append(Case("Megatron 2020", name, model, machine, layout, machines.MEGATRON_2020, seconds, fitted=True))
    return found


def llama3(data: Path) -> list[Case]:
    """Read arXiv:2407.21783, Table 4: 405B; 16 x 8 stages of one layer each, but the first and the last. Not fitted."""
    found = []
    for row in rows(data, "llama3_405b_table4"):
        gpus, tensor, context, pipeline, ways, length, each = (
            int(row[k]) for k in ("gpus", "tp", "cp", "pp", "dp", "seq_len", "batch_per_dp")
        )
        model = replace(shapes.LLAMA_405B, sequence=length)
        layout = Layout(
            ways,
            tensor,
            pipeline,
            context,
            zero=2,
            accumulate=each,
            recompute="none",
            virtual=8,
            schedule="interleaved-1f1b",
        )
        work = ways * each * length * model.palm_flops  # the MFU of PaLM, which they cite: attention counted in full
        seconds = work / gpus / float(row["tflops_per_gpu"]) / 1e12
        machine = Cluster(gpus, machines.H100, network=machines.ROCE_400)
        found.append(
            Case("Llama 3 T4", f"{gpus} GPUs, {length} tokens", model, machine, layout, machines.MEGATRON, seconds)
        )
    return found


def torchtitan(data: Path) -> list[Case]:
    """Read torchtitan's tables: time where it ran in 16 bits, memory of all (8-bit products keep 16-bit states). Not
    fitted.
    """
    found = []
    for row in rows(data, "torchtitan_llama31_h100_202412"):
        if row["table"] in ("2", "6"):
            continue  # the loss is not computed over context ranks alike, and the batch is not printed
        base = {"8B": shapes.LLAMA_8B, "70B": shapes.LLAMA_70B, "405B": shapes.LLAMA_405B}[row["model"]]
        model = replace(base, sequence=int(row["seq_len"]))
        ways = {p.rstrip("0123456789"): int(p.lstrip("FSDPTC")) for p in row["parallelism"].split()}
        gpus, batch = int(row["gpus"]), int(row["local_batch"])
        pipeline = ways.get("PP", 1)
        mode = "alternate" if row["ac"] == "selective" else "full"
        fold = 2 if "interleaved" in row["techniques"] else 1
        # Its default takes as many micro-batches as stages; with a pipeline, FSDP keeps gathered parameters and sums.
        layout = Layout(
            ways["FSDP"], ways.get("TP", 1), pipeline, zero=1 if pipeline > 1 else 3, micro_batch=batch // pipeline,
            accumulate=pipeline, recompute=mode, virtual=fold,
            schedule="interleaved-1f1b" if fold > 1 else "1f1b",
        )  # fmt: skip
        software = machines.FSDP if "compile" in row["techniques"] else machines.FSDP_EAGER
        tokens = layout.global_batch * model.sequence
        exact = "float8" not in row["techniques"]
        seconds = tokens / gpus / float(row["tps_per_gpu"]) if exact else None
        machine = Cluster(gpus, machines.H100_96, network=machines.ROCE_400)
        name, held = f"{row['model']} {row['parallelism']} {row['techniques']}", float(row["mem_gib"]) * machines.GIB
        found.append(Case("torchtitan", name, model, machine, layout, software, seconds, held))
    return found


MPT_SHAPES = {
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16), "3b": (32, 2560, 20),
    "7b": (32, 4096, 32), "13b": (40, 5120, 40), "30b": (48, 7168, 56), "70b": (80, 8192, 64),
}  # fmt: skip


def mpt(data: Path) -> list[Case]:
    """Read MosaicML's table: FSDP, 8 to 512 GPUs, sequences of 512 to 65,536. Fitted on one node with 2,048 and
    16,384.
    """
    found = []
    gpus_of = {"a100_40gb": machines.A100_40, "a100_80gb": machines.A100, "h100_80gb": machines.H100}
    for row in rows(data, "mosaicml_mpt_throughput"):
        if "fp8" in row["precision"]:
            continue
        layers, hidden, heads = MPT_SHAPES[row["model"]]
        length, gpus, micro = int(row["seq_len"]), int(row["gpus"]), int(row["micro_batch_size"])
        model = shapes.gpt(layers, hidden, heads, 50368, length, f"MPT {row['model']}", dropout=False)
        layout = Layout(
            gpus, zero=3 if row["sharding_strategy"] == "FULL_SHARD" else 2, micro_batch=micro,
            accumulate=int(row["grad_accum"]),
            recompute="full" if row["activation_checkpointing"] == "True" else "none",
        )  # fmt: skip
        gpu = gpus_of[row["gpu"]]
        network = machines.ROCE_400 if gpu is machines.H100 else machines.ROCE_200
        tokens = layout.global_batch * length
        seconds = tokens / gpus / float(row["throughput_tok_s_gpu"])
        name = f"{row['model']} s{length} {gpus} {gpu.name}"
        fit = gpus == 8 and length in (2048, 16384)
        machine = Cluster(gpus, gpu, network=network)
        found.append(Case("MPT", name, model, machine, layout, machines.COMPOSER, seconds, fitted=fit))
    return found


PLAYBOOK_SHAPES = {"1B": (16, 2048, 32, 8192), "3B": (28, 3072, 24, 8192), "8B": (32, 4096, 32, 14336)}


def playbook(data: Path, table: str = "ultrascale_playbook_benchmarks_1b_8b") -> list[Case]:
    """Read the Ultra-Scale Playbook's benchmarks, crashed ones too; fitted on healthy rows of 1, 4, 16 and 64 nodes.

    Healthy: step seconds / ((accumulate + pipeline - 1) layers / pipeline) at most 2.5 times the least of the rows with
    the same model, tensor ranks and micro-batch, and a batch of 256 sequences.
    """
    found = []
    for row in rows(data, table):
        if row["model"] not in PLAYBOOK_SHAPES:
            continue
        layers, hidden, heads, ffn = PLAYBOOK_SHAPES[row["model"]]
        model = Model(
            layers, hidden, heads, ffn=ffn, gated=True, vocab=131072, sequence=4096, tied=row["model"] == "1B"
        )
        ways, tensor, pipeline, micro, acc, gpus = (int(row[k]) for k in ("dp", "tp", "pp", "mbs", "grad_acc", "gpus"))
        layout = Layout(
            ways, tensor, pipeline, zero=int(row["zero"]), micro_batch=micro, accumulate=acc, recompute="none"
        )
        machine = Cluster(gpus, machines.H100, network=machines.EFA_400)
        ran = row["status"] == "ok"
        seconds = (
            layout.global_batch * model.sequence / float(row["tok_s"]) if ran and float(row["tok_s"] or 0) else None
        )
        held = float(row["gpu_mem_gb"]) * machines.GIB if ran and row["gpu_mem_gb"] else None
        nodes = int(row["nodes"])
        name = f"{row['model']} {layout}"
        group = (row["model"], nodes)
        found.append(
            Case(
                "Playbook",
                name,
                model,
                machine,
                layout,
                machines.NANOTRON,
                seconds,
                held,
                nodes in (1, 4, 16, 64),
                False,
                group,
            )
        )
    return _healthy(found)


def _healthy(cases: list[Case]) -> list[Case]:
    """Mark the healthy rows."""
    best: dict[tuple, float] = defaultdict(lambda: float("inf"))
    units = {}
    for i, case in enumerate(cases):
        if case.seconds and case.layout.global_batch == 256:
            lay = case.layout
            units[i] = case.seconds / ((lay.accumulate + lay.pipeline - 1) * case.model.layers / lay.pipeline)
            key = (case.group[0], lay.tensor, lay.micro_batch)
            best[key] = min(best[key], units[i])
    marked = []
    for i, case in enumerate(cases):
        key = (case.group[0], case.layout.tensor, case.layout.micro_batch)
        marked.append(replace(case, healthy=i in units and units[i] <= 2.5 * best[key]))
    return marked


def bloom(data: Path, table: str = "bloom176b_3d_topology_sweep_until_0224") -> list[Case]:
    """Read BLOOM's diary: 3D layouts of about 200B parameters on 384 A100s. Not fitted."""
    found = []
    for row in rows(data, table):
        fields = [row[k] for k in ("hidden", "layers", "heads", "dp", "tp", "pp", "mbs", "gbs")]
        if not all(fields) or not row["sec_per_iter"]:
            continue
        hidden, layers, heads, ways, tensor, pipeline, micro, batch = (int(float(f)) for f in fields)
        if hidden % heads or heads % tensor or ways * tensor * pipeline != int(row["gpus"]):
            continue
        model = shapes.gpt(layers, hidden, heads, 250880, 2048, f"BLOOM {row['size_b']}B", positions=0, dropout=False)
        acc = max(1, round(batch / ways / micro))
        layout = Layout(
            ways, tensor, pipeline, zero=int(row["zero_stage"] or 0), micro_batch=micro, accumulate=acc,
            recompute="full",
            sequence_parallel=False,
        )  # fmt: skip
        machine = Cluster(int(row["gpus"]), machines.A100, network=machines.OMNIPATH)
        held = float(row["mem_gb"]) * machines.GIB if row["mem_gb"] else None
        name, seconds = f"line {row['line']}: {layout}", float(row["sec_per_iter"])
        found.append(
            Case(
                "BLOOM",
                name,
                model,
                machine,
                layout,
                machines.MEGATRON_DEEPSPEED,
                seconds,
                held,
                group=(row["section"],),
            )
        )
    return found


READERS = (korthikanti, sc21, sc21_table2, tensor_scaling, llama3, torchtitan, mpt, playbook, bloom)


def cases(data: Path) -> list[Case]:
    """Read every table."""
    return [case for reader in READERS for case in reader(data)]
