"""Choose a layout: what it holds, how long it takes, and why.

>>> from utils import plan
>>> model = plan.Model(layers=32, hidden=4096, heads=32, ffn=14336, gated=True, vocab=131072, sequence=4096, tied=False)
>>> cluster = plan.Cluster(gpus=512, gpu=plan.H100)
>>> layout = plan.Layout(data=64, tensor=8, micro_batch=2, accumulate=2)
>>> e = plan.estimate(model, cluster, layout)
>>> e.fits, e.memory_bytes, e.step_seconds, e.tokens_per_second_per_gpu, e.mfu
>>> e.why()                                            # every term: how it is known, its source, its error
>>> plan.search(model, cluster, global_batch=256)      # every valid layout, ranked, and what killed the others
>>> plan.ranks(layout)                                 # which ranks form which group

Plain Python, without torch. Each term is a small function: parameters and operations in `model`, bytes in `memory` and
`activations`, seconds in `compute`, `network` and `time`. The few numbers no data sheet gives are in `fitted.json`.
"""

from utils.plan.cluster import (
    A100,
    A100_40,
    B200,
    COMPOSER,
    EFA_400,
    FSDP,
    FSDP_EAGER,
    GPU,
    GPUS,
    H100,
    H100_96,
    H200,
    INFINIBAND_200,
    INFINIBAND_400,
    MEGATRON,
    MEGATRON_2020,
    MEGATRON_2021,
    MEGATRON_2022,
    MEGATRON_DEEPSPEED,
    MIXED,
    NANOTRON,
    NETWORKS,
    OMNIPATH,
    ROCE_200,
    ROCE_400,
    SOFTWARE,
    V100,
    Cluster,
    Network,
    Software,
)
from utils.plan.coefficients import Coefficients, fitted, record
from utils.plan.estimate import Estimate, estimate
from utils.plan.goodput import Goodput, daly, goodput, young
from utils.plan.layout import Layout, check, with_batch
from utils.plan.memory import Memory
from utils.plan.model import (
    BLOOM_176B,
    GPT_1_7B,
    GPT_1T,
    GPT_22B,
    GPT_175B,
    GPT_530B,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_405B,
    Model,
    gpt,
    llama,
)
from utils.plan.ranks import Ranks, ranks
from utils.plan.refuse import PlanError
from utils.plan.search import Search, search
from utils.plan.time import Time

__all__ = [
    "A100",
    "A100_40",
    "B200",
    "BLOOM_176B",
    "COMPOSER",
    "Cluster",
    "Coefficients",
    "EFA_400",
    "Estimate",
    "FSDP",
    "FSDP_EAGER",
    "GPT_175B",
    "GPT_1T",
    "GPT_1_7B",
    "GPT_22B",
    "GPT_530B",
    "GPU",
    "GPUS",
    "Goodput",
    "H100",
    "H100_96",
    "H200",
    "INFINIBAND_200",
    "INFINIBAND_400",
    "LLAMA_405B",
    "LLAMA_70B",
    "LLAMA_8B",
    "Layout",
    "MEGATRON",
    "MEGATRON_2020",
    "MEGATRON_2021",
    "MEGATRON_2022",
    "MEGATRON_DEEPSPEED",
    "MIXED",
    "Memory",
    "Model",
    "NANOTRON",
    "NETWORKS",
    "Network",
    "OMNIPATH",
    "PlanError",
    "ROCE_200",
    "ROCE_400",
    "Ranks",
    "SOFTWARE",
    "Search",
    "Software",
    "Time",
    "V100",
    "check",
    "daly",
    "estimate",
    "fitted",
    "goodput",
    "gpt",
    "llama",
    "ranks",
    "record",
    "search",
    "with_batch",
    "young",
]
