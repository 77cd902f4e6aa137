"""Every term of an estimate: what it is, where its formula comes from, and how wrong it was on rows it did not see."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from utils.plan.coefficients import record

if TYPE_CHECKING:
    from utils.plan.estimate import Estimate

EXACT, FORMULA, CALIBRATED = "exact", "formula", "calibrated"

# Term: how it is known, source, the function that computes it, the sections of the scorecard that tested it.
MEMORY = {
    "parameters": (EXACT, "arXiv:1910.02054, section 3", "memory.state_bytes", "state memory"),
    "gradients": (EXACT, "arXiv:1910.02054, section 3", "memory.state_bytes", "state memory"),
    "optimizer": (EXACT, "arXiv:1910.02054, section 3", "memory.state_bytes", "state memory"),
    "activations": (FORMULA, "arXiv:2205.05198, Table 2", "activations.layer_bytes", "activation memory"),
    "logits": (FORMULA, "bytes held for each logit, by software", "activations.logits_bytes", "peak memory"),
    "transient": (FORMULA, "buckets; two gathered layers (FSDP)", "memory.transient_bytes", "peak memory"),
}
TIME = {
    "compute": (CALIBRATED, "2 m n k / peak + bytes / bandwidth", "compute.layer_seconds", "iteration time"),
    "recompute": (CALIBRATED, "the forward again, arXiv:2205.05198", "compute.layer_seconds", "iteration time"),
    "tensor": (CALIBRATED, "2 (n-1)/n bytes, arXiv:1909.08053", "time.tensor_seconds", "iteration time"),
    "context": (CALIBRATED, "keys and values gathered, arXiv:2407.21783", "time.context_seconds", "iteration time"),
    "expert": (CALIBRATED, "two all-to-alls; never tested", "time.expert_seconds", ""),
    "data": (CALIBRATED, "2 or 3 psi, arXiv:1910.02054, section 7", "time.reduce_seconds", "throughput"),
    "pipeline": (CALIBRATED, "latency + bytes / bandwidth", "time.hop_seconds", "throughput"),
    "bubble": (FORMULA, "simulated by utils.schedule", "time.simulated", "pipeline bubble"),
    "host": (CALIBRATED, "a floor for launching a layer", "time.host_seconds", "throughput"),
    "optimizer": (CALIBRATED, "states read and written", "compute.optimizer_seconds", "throughput"),
}


@dataclass(frozen=True)
class Row:
    """Hold one line: the term, its value with a unit, its share, how it is known, source, function, error."""

    term: str
    value: str
    share: float
    known: str
    source: str
    function: str
    error: str


class Table:
    """Show an estimate's terms as a table, in a notebook and as text."""

    columns = ("term", "value", "share", "known", "source", "function", "error on held-out rows")

    def __init__(self, estimate: Estimate) -> None:
        """Take the estimate."""
        self.estimate = estimate

    @property
    def rows(self) -> list[Row]:
        """Give the lines: memory of the fullest rank, then time of a step; terms that are 0 are left out."""
        e = self.estimate
        found = []
        for name, amount in e.memory.kinds.items():
            if amount:
                found.append(_row(f"{name}", f"{amount / 2**30:.2f} GiB", amount / e.memory.total, MEMORY[name]))
        for name, seconds in e.time.terms.items():
            if seconds > 1e-9 * e.time.total:
                label = "optimizer step" if name == "optimizer" else name
                found.append(_row(label, f"{seconds:.4g} s", seconds / e.time.total, TIME[name]))
        return found

    @property
    def fitted_on(self) -> str:
        """Say which rows the calibrated terms were fitted on."""
        rows = record()["rows"]
        return ", ".join(f"{count} rows of {name}" for name, count in rows.items()) or "no rows: first guesses"

    def __str__(self) -> str:
        """Write it as text."""
        lines = [
            f"{'term':15} {'value':>10} {'share':>6}  {'known':10} {'source':45} {'function':27} error on held-out rows"
        ]
        for r in self.rows:
            line = f"{r.term:15} {r.value:>10} {r.share:6.1%}  {r.known:10} {r.source:45} {r.function:27} {r.error}"
            lines.append(line)
        return "\n".join([*lines, f"calibrated: fitted on {self.fitted_on}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in self.columns)
        body = ""
        for r in self.rows:
            cells = (r.term, r.value, f"{r.share:.1%}", r.known, r.source, r.function, r.error)
            body += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        note = escape(f"calibrated: fitted on {self.fitted_on}")
        return f"<table><caption>{note}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(term: str, value: str, share: float, known: tuple[str, str, str, str]) -> Row:
    error = record()["held_out"].get(known[3], "not tested") if known[3] else "not tested"
    return Row(term, value, share, known[0], known[1], known[2], error)
