"""The cluster: processors, what joins them, and the software that runs on them. Presets with their sources."""

from __future__ import annotations

from dataclasses import dataclass, replace

from utils.plan.refuse import divides, one_of, whole

GIB, GB, TERA = 2**30, 1e9, 1e12


@dataclass(frozen=True)
class GPU:
    """Hold a processor's data sheet. Units: FLOP/s dense in 16 bits, bytes, bytes/s.

    link: bytes/s one GPU sends to others in its node, one way.
    """

    name: str
    peak: float
    memory: float
    memory_bandwidth: float
    link: float
    source: str = ""


V100 = GPU("V100", 125 * TERA, 32 * GIB, 0.9 * TERA, 150 * GB, "NVIDIA V100 SXM data sheet")
A100 = GPU("A100", 312 * TERA, 80 * GIB, 2.04 * TERA, 300 * GB, "NVIDIA A100 80 GB SXM data sheet")
A100_40 = GPU("A100-40", 312 * TERA, 40 * GIB, 1.56 * TERA, 300 * GB, "NVIDIA A100 40 GB SXM data sheet")
H100 = GPU("H100", 989 * TERA, 80 * GIB, 3.35 * TERA, 450 * GB, "NVIDIA H100 SXM data sheet, without sparsity")
H100_96 = GPU(
    "H100-96", 989 * TERA * 500 / 700, 96 * GIB, 2.4 * TERA, 450 * GB,
    "torchtitan benchmarks, llama3_h100_202412: HBM2e, 500 W; its peak is not published, taken in proportion to 700 W",
)  # fmt: skip
H200 = GPU("H200", 989 * TERA, 141 * GB, 4.8 * TERA, 450 * GB, "NVIDIA H200 SXM data sheet")
B200 = GPU("B200", 2250 * TERA, 180 * GB, 8 * TERA, 900 * GB, "NVIDIA DGX B200 data sheet, an eighth of it")
GPUS = {gpu.name: gpu for gpu in (V100, A100, A100_40, H100, H100_96, H200, B200)}


@dataclass(frozen=True)
class Network:
    """Hold what joins the nodes. per_gpu: bytes/s for each GPU, one way; the node's own total shared by its GPUs.

    latency: seconds of one message between nodes. congestion: collectives over k nodes reach per_gpu / k^congestion;
    0 is a network without contention.
    """

    name: str
    per_gpu: float
    latency: float = 5e-6
    congestion: float = 0.0
    source: str = ""


INFINIBAND_200 = Network(
    "InfiniBand 200", 25 * GB, source="Selene: 8 HDR adapters a node (arXiv:2104.04473, section 5)"
)
INFINIBAND_400 = Network("InfiniBand 400", 50 * GB, source="8 NDR adapters a node, DGX H100 data sheet")
ROCE_200 = Network("RoCE 200", 25 * GB, source="MosaicML's tables: 1,600 Gbit/s a node")
ROCE_400 = Network("RoCE 400", 50 * GB, source="Llama 3: 400 Gbit/s a GPU (arXiv:2407.21783, section 3.3.1)")
EFA_400 = Network(
    "EFA 400", 50 * GB, 5.83e-5, 0.0566,
    "AWS p5: 3,200 Gbit/s a node; latency and congestion fitted on the Ultra-Scale Playbook's step times",
)  # fmt: skip
OMNIPATH = Network("Omni-Path 100", 6.25 * GB, source="Jean Zay: 4 adapters of 100 Gbit/s a node (BLOOM's README)")
NETWORKS = {net.name: net for net in (INFINIBAND_200, INFINIBAND_400, ROCE_200, ROCE_400, EFA_400, OMNIPATH)}


@dataclass(frozen=True)
class Cluster:
    """Hold a machine: how many GPUs, of which kind, by how many a node, and what joins the nodes.

    gpu, network: a preset, its name, or one of your own. The network is chosen to suit the GPU if it is not given.
    """

    gpus: int
    gpu: GPU = H100
    gpus_per_node: int = 8
    network: Network | None = None

    def __post_init__(self) -> None:
        """Look up names; refuse a cluster that cannot be."""
        if isinstance(self.gpu, str):
            one_of("GPU", self.gpu, GPUS)
            object.__setattr__(self, "gpu", GPUS[self.gpu])
        if isinstance(self.network, str):
            one_of("network", self.network, NETWORKS)
            object.__setattr__(self, "network", NETWORKS[self.network])
        whole("gpus", self.gpus)
        whole("gpus_per_node", self.gpus_per_node)
        if self.gpus > self.gpus_per_node:
            divides(self.gpus_per_node, self.gpus, "GPUs come in whole nodes")

    @property
    def nodes(self) -> int:
        """Count the nodes."""
        return max(1, self.gpus // self.gpus_per_node)

    @property
    def net(self) -> Network:
        """Give the network between nodes."""
        if self.network is not None:
            return self.network
        return INFINIBAND_400 if self.gpu.peak > 500 * TERA else INFINIBAND_200

    def with_gpus(self, gpus: int) -> Cluster:
        """Give the same cluster with another number of GPUs."""
        return replace(self, gpus=gpus)


@dataclass(frozen=True)
class Software:
    """Hold what the training program does, as far as it changes memory and time.

    parameter, gradient, optimizer: bytes a parameter: 2 + 2 + 12 is Adam in mixed precision (arXiv:1910.02054, section
    3.1); a program that adds up gradients in 32 bits has 4. flash: the version of flash attention, which never stores
    the s x s scores; 0 for none. fused: element-wise operations run as one kernel; without it each reads and writes
    memory by itself. keeps_gathered: with sequence parallelism and no pipeline, gathered inputs of linear layers are
    kept for the backward. fragments: each micro-batch in flight leaves holes in memory, of a fitted size. logit_bytes:
    bytes held at the peak for each logit. split: how layers are dealt to stages, "even" or "balanced". host: which
    fitted time the program needs to launch a layer, "eager" or "lean". reduce_bytes: bytes for a gradient on the wire.
    overlaps: gradients are summed while the backward goes on; bucket: bytes summed at once. overlaps_tensor: tensor
    ranks' traffic of a backward runs beside the weights' gradients. accumulate: bytes moved for a parameter to add a
    micro-batch's gradient to the sum. stops_early: full recomputation leaves out a layer's last product, as PyTorch's
    checkpoint does. context: bytes that the driver and the collectives hold, where memory was measured from outside.
    """

    name: str = "Megatron-LM"
    parameter: float = 2
    gradient: float = 4
    optimizer: float = 12
    flash: int = 2
    fused: bool = True
    keeps_gathered: bool = False
    fragments: bool = False
    stops_early: bool = False
    logit_bytes: float = 6
    split: str = "even"
    host: str = "lean"
    reduce_bytes: float = 4
    overlaps: bool = True
    overlaps_tensor: bool = False
    accumulate: float = 10
    bucket: float = 0.2e9
    context: float = 0.0
    source: str = ""


MEGATRON = Software(
    overlaps_tensor=True, accumulate=6,
    source="Megatron-LM with flash attention; weights' gradients added up in 32 bits inside the product",
)  # fmt: skip
MEGATRON_2022 = replace(
    MEGATRON, name="Megatron-LM 2022", flash=0, overlaps=False, bucket=1e12, source="arXiv:2205.05198, section 4.2.2"
)  # fmt: skip
MEGATRON_2021 = replace(
    MEGATRON_2022, name="Megatron-LM 2021", overlaps_tensor=False, accumulate=10, source="arXiv:2104.04473"
)
MEGATRON_2020 = replace(
    MEGATRON_2021, name="Megatron-LM 2020", overlaps=True, bucket=0.2e9, reduce_bytes=2, gradient=2, accumulate=4,
    source="PyTorch's DDP in 16 bits",
)  # fmt: skip
MIXED = replace(
    MEGATRON, name="ZeRO paper", gradient=2, reduce_bytes=2, accumulate=4, source="arXiv:1910.02054, section 3.1"
)
NANOTRON = Software(
    "nanotron", gradient=6, fused=False, keeps_gathered=True, fragments=True, logit_bytes=12, split="balanced",
    host="eager",
    bucket=100e6,
    source="Ultra-Scale Playbook: 16-bit gradients and their 32-bit sums",
)  # fmt: skip
FSDP = Software(
    "FSDP", parameter=4, gradient=4, optimizer=8, logit_bytes=12, reduce_bytes=4, stops_early=True,
    source="PyTorch FSDP2: parameters sharded in 32 bits, gathered in 16 (torchtitan)",
)  # fmt: skip
FSDP_EAGER = replace(FSDP, name="FSDP without compile", fused=False)
COMPOSER = replace(
    FSDP,
    name="Composer FSDP",
    flash=1,
    reduce_bytes=2,
    source="MosaicML llm-foundry: amp_bf16, reduced in 16 bits",
)
DEEPSPEED_2021 = replace(
    MEGATRON_2021, name="DeepSpeed 2021", gradient=2, reduce_bytes=2, accumulate=4, source="arXiv:2104.04473, 5.2"
)
MEGATRON_DEEPSPEED = replace(
    MEGATRON_2021,
    name="Megatron-DeepSpeed",
    gradient=2,
    accumulate=4,
    optimizer=16,
    reduce_bytes=2,
    bucket=1e9,
    fragments=True,
    context=2 * GIB,
    source="BLOOM's diary; a 32-bit gradient of each rank's shard, "
    "buckets of 500 million 16-bit values, DeepSpeed's default; memory by nvidia-smi",
)
_KNOWN = (
    MEGATRON, MEGATRON_2022, MEGATRON_2021, MEGATRON_2020, MIXED, NANOTRON, FSDP, FSDP_EAGER, COMPOSER, DEEPSPEED_2021,
    MEGATRON_DEEPSPEED,
)  # fmt: skip
SOFTWARE = {software.name: software for software in _KNOWN}
