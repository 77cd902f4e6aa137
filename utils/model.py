"""Train this: one small GPT and one real text, the same in every lesson.

The model is a decoder of the GPT-2 family: token and position embeddings, blocks that normalise first (attention, then
a two-layer perceptron, each added to its input), and output weights tied to the token embedding. Query, key and value
have no bias: the true gradient of a key bias is zero, so Adam would turn its rounding noise into drift, and two correct
versions of one training would part for no reason.

Every parameter starts from a random stream of its own, chosen by the seed and the parameter's name. So a part built
alone (`Part`) holds the very numbers that the same part of the whole model (`GPT`) holds, whatever is built beside it.

The text is the documentation of PyTorch: the docstrings of the installed `torch`, one character a token.
"""
import functools
import hashlib
import inspect
import math
import sys
import types
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace as replace  # re-exported: `model.replace(config, layers=8)`

import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.set_num_threads(1)  # ranks share the machine: a second thread in each of them slows all of them down


# ------------------------------------------------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Config:
    """Hold the sizes of a model: `layers` blocks, `width` features a position, `context` positions a sequence.

    And three things that a training must respect, all ordinary unless a check sets them: `tied`, the output weights are
    the token embedding; `frozen`, names of parameters that are not trained; `clip`, the greatest norm that the gradient
    of the whole model may have in a step (None: any).
    """

    layers: int = 6
    width: int = 64
    heads: int = 4
    context: int = 64
    vocab: int = 100
    tied: bool = True
    frozen: tuple[str, ...] = ()
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "context", "vocab"):
            if getattr(self, name) < 1:
                raise ValueError(f"Config: {name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"Config: width {self.width} does not divide into {self.heads} heads")

    @property
    def head_width(self) -> int:
        """Give the features of one head."""
        return self.width // self.heads


SMALL = Config()  # six blocks, 0.31 million parameters: cuts in 2, 3 and 6
EIGHT = Config(layers=8)  # where four stages are wanted
SISTER = Config(layers=12, width=256, heads=8)  # 9.5 million parameters: where memory must run out


class Attention(nn.Module):
    """Let every position look at itself and at those before it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [sequences, positions, width] to the same shape."""
        # [sequences, positions, width] -> [sequences, heads, positions, head width]; -1 lets a rank hold fewer heads
        head_width = self.query.in_features // self.heads
        q, k, v = (
            project(x).unflatten(-1, (-1, head_width)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Transform each position by itself: up to four times the width, a bend, and down again."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [sequences, positions, width] to the same shape."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Add to the stream what attention finds, then what the perceptron makes of it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map [sequences, positions, width] to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Part(nn.Module):
    """Hold a run of blocks of the model, with the embeddings if it is the first part and the output if it is the last.

    Parameters have the names and, for the same seed, the first values that they have in the whole model; nothing else
    is built. A last part that is not also the first holds its own copy of the tied weight, under the name
    `output.weight`; its partner is `token.weight` in the first part. Keeping the two equal is up to you. Parameters
    that the config calls frozen do not ask for a gradient.

    blocks: indices of the blocks it holds, e.g. range(2, 4). seed: None takes torch's (`torch.manual_seed`).
    """

    def __init__(
        self, config: Config, blocks: Iterable[int], first: bool = False, last: bool = False, seed: int | None = None
    ) -> None:
        super().__init__()
        blocks = list(blocks)
        if blocks and not 0 <= min(blocks) <= max(blocks) < config.layers:
            raise ValueError(f"Part: blocks {blocks} are not all among the model's blocks 0 to {config.layers - 1}")
        if blocks != sorted(set(blocks)):
            raise ValueError(f"Part: blocks {blocks} must rise, each named once")
        self.config, self.first, self.last = config, first, last
        if first:
            self.token = nn.Embedding(config.vocab, config.width)
            self.position = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleDict({str(index): Block(config) for index in blocks})
        if last:
            self.norm = nn.LayerNorm(config.width)
            self.output = nn.Linear(config.width, config.vocab, bias=False)
        if first and last and config.tied:
            self.output.weight = self.token.weight  # one weight reads and writes
        set_first_values(self, config, torch.initial_seed() if seed is None else seed)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(whole_name(name, config) not in config.frozen)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (first part) or activations [sequences, positions, width] to activations or (last part) logits."""
        if self.first:
            if x.size(1) > self.config.context:
                raise ValueError(f"sequences of {x.size(1)} tokens; this model's context is {self.config.context}")
            x = self.token(x) + self.position.weight[: x.size(1)]
        for block in self.blocks.values():
            x = block(x)
        return self.output(self.norm(x)) if self.last else x


class GPT(Part):
    """Hold the whole model: `GPT(config)(tokens)` maps int64 [sequences, positions] to logits [.., .., vocab].

    seed: None takes torch's, so `torch.manual_seed(1); GPT(config)` builds the model of seed 1.
    """

    def __init__(self, config: Config = SMALL, seed: int | None = None) -> None:
        super().__init__(config, range(config.layers), first=True, last=True, seed=seed)


@torch.no_grad()
def set_first_values(module: nn.Module, config: Config, seed: int) -> None:
    """Set every parameter from a random stream of its own, chosen by seed and name.

    Biases are zero, norms one, matrices normal with deviation 0.5 / sqrt(inputs); the matrices that write into the
    residual stream are smaller by sqrt(2 x layers) (Radford et al. 2019, section 2.3). Embeddings have deviation
    0.8 / sqrt(width), positions half that: of the scales tried at width 64, these learned fastest.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            continue
        if parameter.dim() == 1:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        name = whole_name(name, config)
        scale = {"token.weight": 0.8, "position.weight": 0.4}.get(name, 0.5)
        if name.endswith(("attention.output.weight", "mlp.down.weight")):
            scale /= math.sqrt(2 * config.layers)
        stream = hashlib.sha256(f"{seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(stream[:7], "big"))
        # every matrix here is [outputs, inputs] and both embeddings are [rows, width]
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale * parameter.size(1) ** -0.5)


def whole_name(name: str, config: Config = SMALL) -> str:
    """Name the parameter of the whole model that a part's parameter is: `output.weight`, if tied, is `token.weight`."""
    return "token.weight" if config.tied and name == "output.weight" else name


def tied_partner(name: str) -> str | None:
    """Name the parameter that this one is a copy of in a part of a tied model, or None."""
    return "token.weight" if name == "output.weight" else None


LEARNING_RATES = {"sgd": 0.1, "adamw": 3e-3}  # of the rates tried on 16 sequences a step, these learn without trouble


def optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float | None = None) -> torch.optim.Optimizer:
    """Make the optimizer that the course trains with: "sgd" (plain) or "adamw", at the course's learning rate."""
    if name not in LEARNING_RATES:
        raise ValueError(f"optimizer must be one of {', '.join(LEARNING_RATES)}, not {name!r}")
    lr = LEARNING_RATES[name] if lr is None else lr
    return torch.optim.SGD(parameters, lr=lr) if name == "sgd" else torch.optim.AdamW(parameters, lr=lr)


def loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Average the cross-entropy over all targets, in nats; targets of -100 do not count.

    logits: [sequences, positions, vocab]; targets: int64 [sequences, positions]. reduction="sum" adds up instead.
    """
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-100, reduction=reduction)


# ------------------------------------------------------------------------------------------------------------- the text

# Python and C++ functions whose documentation is the same in every build (CPU, CUDA, macOS, Windows) of one version.
SOURCES = ("torch", "torch.Tensor", "torch.nn", "torch.optim", "torch.distributed", "torch.utils.data",
           "torch.autograd", "torch.sparse")


@functools.cache
def text() -> str:
    """Gather the text: the docstrings of the installed torch, in the order of their names, each once.

    About 1.34 million characters of 100 symbols; the same in every process, since only what `import torch` brings is
    read. Costs a tenth of a second, so nothing is kept on disk.
    """
    if sys.flags.optimize > 1:
        raise RuntimeError("this Python runs with -OO, which strips docstrings; the text is made of them")
    found: dict[str, None] = {}  # a dictionary keeps the order and drops what repeats
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some names only exist to say that they are deprecated
        for source in SOURCES:
            holder = functools.reduce(getattr, source.split(".")[1:], torch)
            for name in sorted(vars(holder) if isinstance(holder, types.ModuleType) else dir(holder)):
                thing = inspect.getattr_static(holder, name)
                if not name.startswith("_") and _is_documentation_of_torch(thing):
                    found[inspect.cleandoc(thing.__doc__)] = None  # newer Pythons strip indents themselves: level it
    return "\n\n".join(found)


def _is_documentation_of_torch(thing: object) -> bool:
    """Tell written documentation from what comes from elsewhere or was generated by a compiler's bindings."""
    home, doc = getattr(thing, "__module__", None) or "torch", getattr(thing, "__doc__", None)
    if not isinstance(doc, str) or isinstance(thing, types.ModuleType) or not home.startswith("torch"):
        return False
    if doc == type(thing).__doc__:  # a number or None explains itself by its class, in words of Python's version
        return False
    generated = isinstance(thing, type) and home.startswith("torch._C") or "self: " in doc[:200] or "arg0" in doc
    return not generated


@functools.cache
def symbols() -> tuple[str, ...]:
    """List the symbols of the text in order: the index of a symbol is its token."""
    found = tuple(sorted(set(text())))
    if len(found) > SMALL.vocab:
        raise RuntimeError(
            f"the docstrings of torch {torch.__version__} have {len(found)} symbols, the model has {SMALL.vocab}: "
            "install the version that requirements.txt names"
        )
    return found


def encode(words: str) -> Tensor:
    """Turn characters into tokens, int64 [characters]. Raises ValueError for a character that the text never uses."""
    number = {symbol: index for index, symbol in enumerate(symbols())}
    unknown = sorted(set(words) - set(number))
    if unknown:
        raise ValueError(f"the text has no symbol {unknown[0]!r}; it has {len(number)}: {''.join(symbols())!r}")
    return torch.tensor([number[character] for character in words], dtype=torch.int64)


def decode(tokens: Tensor) -> str:
    """Turn tokens [characters] back into characters."""
    return "".join(symbols()[token] for token in tokens.flatten().tolist())


@functools.cache
def split(name: str) -> Tensor:
    """Give the tokens of one split, uint8 [characters]: "train" or "validation".

    The text is cut into stretches of 10,000 characters, and every tenth stretch is held out: a plain cut would hold out
    one kind of documentation only.
    """
    if name not in ("train", "validation"):
        raise ValueError(f'split must be "train" or "validation", not {name!r}')
    tokens = encode(text()).to(torch.uint8)
    stretches = tokens.split(10_000)
    return torch.cat([s for i, s in enumerate(stretches) if (i % 10 == 9) == (name == "validation")])


def batch(
    step: int,
    sequences: int,
    context: int = SMALL.context,
    split: str = "train",
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Tensor, Tensor]:
    """Draw the batch of a step: (tokens, targets), int64 [sequences, context]; targets are the next tokens.

    The same arguments give the same batch on every rank and every machine. With rank and world_size it gives that
    rank's share of the same global batch: 30 sequences on 4 ranks are 8, 8, 7 and 7.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of 0 to {world_size - 1}")
    data = _split(split)
    name = f"{seed} {split} {step}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:7], "big"))
    starts = torch.randint(len(data) - context, (sequences,), generator=generator).tensor_split(world_size)[rank]
    places = starts[:, None] + torch.arange(context + 1)  # [sequences, context + 1]
    pieces = data[places].to(torch.int64)
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


_split = split  # inside `batch` the name is an argument


@torch.no_grad()
def validation_loss(network: nn.Module, sequences: int = 128, context: int = SMALL.context) -> float:
    """Measure the loss on held-out text, in nats a character: always the same sequences."""
    training = network.training
    network.eval()
    tokens, targets = batch(0, sequences, context, split="validation")
    total = sum(loss(network(a), b).item() * len(a) for a, b in zip(tokens.split(32), targets.split(32), strict=True))
    network.train(training)
    return total / sequences


@functools.cache
def letter_frequency_loss() -> float:
    """Give the loss, in nats, of guessing each held-out character by how often it comes in the training text."""
    counts = torch.bincount(split("train").int(), minlength=len(symbols())).double() + 1e-3
    held_out = torch.bincount(split("validation").int(), minlength=len(symbols())).double()
    return -(held_out / held_out.sum() * (counts / counts.sum()).log()).sum().item()
