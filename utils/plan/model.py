"""The model: how many parameters, how many floating-point operations. Exact, from the shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from utils.plan.refuse import PlanError, divides, whole


@dataclass(frozen=True)
class Model:
    """Hold the shape of a decoder-only transformer.

    ffn: width inside the MLP. gated: the MLP has three matrices (SwiGLU), not two. tied: one table is both embedding
    and output head. positions: learned positions, 0 for rotary ones or none. biases: linear layers and norms have
    biases, as in GPT-2 and GPT-3. experts: how many MLPs stand side by side in a layer, of which a token visits
    experts_per_token. dropout: the model was trained with it (its masks are kept).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int | None = None
    ffn: int | None = None
    gated: bool = False
    vocab: int = 51200
    sequence: int = 2048
    tied: bool = True
    positions: int = 0
    biases: bool = False
    experts: int = 1
    experts_per_token: int = 1
    dropout: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        """Fill in the usual kv_heads and ffn; refuse what is no model."""
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.ffn is None:
            object.__setattr__(self, "ffn", 4 * self.hidden)
        for name in (
            "layers",
            "hidden",
            "heads",
            "kv_heads",
            "ffn",
            "vocab",
            "sequence",
            "experts",
            "experts_per_token",
        ):
            whole(name, getattr(self, name))
        divides(self.heads, self.hidden, "hidden has to split into heads")
        divides(self.kv, self.heads, "heads have to split into groups, one for each of kv_heads")
        if self.experts_per_token > self.experts:
            text = f"A token cannot visit {self.experts_per_token} of {self.experts} experts; nearest: {self.experts}"
            raise PlanError(text)

    @property
    def kv(self) -> int:
        """Give the number of key and value heads."""
        return self.kv_heads or self.heads

    @property
    def width(self) -> int:
        """Give the width inside the MLP."""
        return self.ffn or 4 * self.hidden

    @property
    def kv_hidden(self) -> int:
        """Give the width of the keys (and of the values): smaller than hidden with grouped queries."""
        return self.hidden // self.heads * self.kv

    # ---- parameters ------------------------------------------------------------------------------------------------

    @property
    def attention_matrices(self) -> int:
        """Count a layer's attention weights: queries and output h x h each, keys and values h x kv_hidden each."""
        return 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_hidden

    @property
    def mlp_matrices(self) -> int:
        """Count one MLP's weights: up and down, and the gate if there is one."""
        return (3 if self.gated else 2) * self.hidden * self.width

    @property
    def router_matrices(self) -> int:
        """Count the weights that choose experts: h x experts, none where there is one expert only."""
        return self.hidden * self.experts if self.experts > 1 else 0

    @property
    def layer_vectors(self) -> int:
        """Count what is no matrix in a layer: two norms, and the biases if there are any."""
        if not self.biases:
            return 2 * self.hidden
        linear = (
            2 * self.hidden + 2 * self.kv_hidden + self.experts * (self.width * (2 if self.gated else 1) + self.hidden)
        )
        return 4 * self.hidden + linear

    @property
    def expert_parameters(self) -> int:
        """Count all experts' weights in a layer: what expert parallelism shares out (0 for a dense model)."""
        return self.experts * self.mlp_matrices if self.experts > 1 else 0

    @property
    def layer_parameters(self) -> int:
        """Count one layer's parameters, all its experts included."""
        return self.attention_matrices + self.experts * self.mlp_matrices + self.router_matrices + self.layer_vectors

    @property
    def embedding_parameters(self) -> int:
        """Count the table of the vocabulary, and the learned positions if there are any."""
        return (self.vocab + self.positions) * self.hidden

    @property
    def head_parameters(self) -> int:
        """Count the output head's own parameters: none if it is the embedding's table."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def final_norm(self) -> int:
        """Count the last norm."""
        return self.hidden * (2 if self.biases else 1)

    @cached_property
    def parameters(self) -> int:
        """Count every parameter."""
        return self.layers * self.layer_parameters + self.embedding_parameters + self.head_parameters + self.final_norm

    @cached_property
    def active_parameters(self) -> int:
        """Count the parameters a token meets: all of them, but only experts_per_token of the experts."""
        unused = (self.experts - self.experts_per_token) * self.mlp_matrices
        return self.parameters - self.layers * unused

    # ---- floating-point operations: a multiply and an add are two ----------------------------------------------------

    @property
    def layer_matmul_flops(self) -> int:
        """Count one layer's forward operations for a token in its weights: 2 for each weight it meets."""
        return 2 * (self.attention_matrices + self.experts_per_token * self.mlp_matrices + self.router_matrices)

    def layer_attention_flops(self, causal: bool = False) -> float:
        """Count one layer's forward operations for a token between queries, keys and values: 4 s h.

        causal: only the half below the diagonal is done (flash attention); published formulas count all of it.
        """
        return 4 * self.sequence * self.hidden * (0.5 if causal else 1)

    @property
    def head_flops(self) -> int:
        """Count the forward operations of the logits for a token."""
        return 2 * self.vocab * self.hidden

    def forward_flops(self, causal: bool = False) -> float:
        """Count the forward operations for a token."""
        layer = self.layer_matmul_flops + self.layer_attention_flops(causal)
        return self.layers * layer + self.head_flops

    @cached_property
    def flops(self) -> float:
        """Count the operations of forward and backward for a token, without recomputing: three times the forward.

        The backward does each product twice, for the inputs and for the weights. This is Narayanan et al.,
        arXiv:2104.04473, equation 3, with 72 in place of 96 (theirs includes one more forward, recomputed).
        """
        return 3 * self.forward_flops()

    @property
    def palm_flops(self) -> float:
        """Count as PaLM does (arXiv:2204.02311, appendix B): 6 N + 12 L h s, embeddings counted as if multiplied."""
        return 6 * self.active_parameters + 12 * self.layers * self.hidden * self.sequence


def gpt(
    layers: int, hidden: int, heads: int, vocab: int = 51200, sequence: int = 2048, name: str = "", **more: Any
) -> Model:
    """Give a GPT-3-like model: plain MLP of 4 h, biases, learned positions, tied table, dropout (arXiv:2104.04473)."""
    shape: dict[str, Any] = dict(tied=True, positions=sequence, biases=True, dropout=True)
    return Model(layers, hidden, heads, vocab=vocab, sequence=sequence, name=name, **{**shape, **more})


def llama(layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, sequence: int = 8192, name: str = "") -> Model:
    """Give a Llama-3-like model: gated MLP, grouped queries, 128,256 tokens, own output head (arXiv:2407.21783)."""
    return Model(layers, hidden, heads, kv_heads, ffn, True, 128256, sequence, tied=False, name=name)


GPT_1_7B = gpt(24, 2304, 24, name="GPT 1.7B")
GPT_22B = gpt(48, 6144, 64, name="GPT 22B")
GPT_175B = gpt(96, 12288, 96, name="GPT 175B")
GPT_530B = gpt(105, 20480, 128, name="GPT 530B")
GPT_1T = gpt(128, 25600, 160, name="GPT 1T")
BLOOM_176B = gpt(70, 14336, 112, vocab=250880, name="BLOOM 176B", positions=0, dropout=False)
LLAMA_8B = llama(32, 4096, 32, 8, 14336, name="Llama 3 8B")
LLAMA_70B = llama(80, 8192, 64, 8, 28672, name="Llama 3 70B")
LLAMA_405B = llama(126, 16384, 128, 8, 53248, name="Llama 3 405B")
