"""The scorecard: the planner against published measurements, marks reached or not. make bench-plan

Rows it was fitted on are left out of every line about time and memory of the Playbook, MPT and the 175B of SC'21.
Beside it stands llm-analysis, where it is installed and can answer (see rival.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean, median
from typing import Any

from utils import schedule
from utils.plan import published, rival
from utils.plan.activations import layer_bytes, working_bytes
from utils.plan.cluster import H100, MIXED, ROCE_400, Cluster
from utils.plan.coefficients import FILE, fitted
from utils.plan.estimate import Estimate, estimate
from utils.plan.layout import Layout
from utils.plan.memory import memory, state_bytes
from utils.plan.model import LLAMA_405B
from utils.plan.published import Case
from utils.plan.refuse import PlanError
from utils.plan.search import search


@dataclass(frozen=True)
class Line:
    """Hold a line of the scorecard. reached, mark: what was reached and what was aimed at; None for no mark."""

    what: str
    against: str
    rows: int
    measure: str
    reached: float
    mark: float | None = None
    at_least: bool = False
    rival: str = ""
    unit: str = "%"

    @property
    def verdict(self) -> str:
        """Say whether the mark is reached."""
        if self.mark is None:
            return ""
        return (
            "reached" if (self.reached >= self.mark if self.at_least else self.reached <= self.mark) else "NOT REACHED"
        )

    def __str__(self) -> str:
        """Write the line."""
        show = (lambda x: f"{x:.2f} %") if self.unit == "%" else (lambda x: f"{x:.3g} {self.unit}".strip())
        aim = "" if self.mark is None else f"{'>=' if self.at_least else '<='} {show(self.mark)}"
        cells = f"{self.what:24} {self.against:38} {self.rows:>5} {self.measure:15} {show(self.reached):>10} {aim:>11}"
        return f"{cells} {self.verdict:12} {self.rival}"


def ninth(values: Iterable[float]) -> float:
    """Give the value that nine in ten do not pass."""
    ranked = sorted(values)
    return ranked[ceil(0.9 * len(ranked)) - 1]


def percent(predicted: float, measured: float) -> float:
    """Give how far off a prediction is, in percent of what was measured."""
    return 100 * abs(predicted / measured - 1)


class Scorecard:
    """Compare case by case, and keep the lines."""

    def __init__(self, data: Path, tool: object | None) -> None:
        """Read the tables; predict each case once."""
        self.data, self.tool = data, tool
        self.cases = published.cases(data)
        self.lines: list[Line] = []
        self.estimates: dict[int, Estimate] = {}

    def predict(self, case: Case) -> Estimate | None:
        """Estimate a case; None where the planner refuses its layout."""
        if id(case) not in self.estimates:
            try:
                self.estimates[id(case)] = estimate(case.model, case.cluster, case.layout, case.software)
            except PlanError:
                return None
        return self.estimates[id(case)]

    def of(self, section: str, keep: Callable[[Case], bool] = lambda case: True) -> list[Case]:
        """List the cases of a section."""
        return [c for c in self.cases if c.section == section and keep(c)]

    def add(self, *args: Any, **more: Any) -> None:
        """Keep a line."""
        self.lines.append(Line(*args, **more))

    def theirs(self, cases: list[Case], kind: str, measured: Callable[[Case], float | None]) -> str:
        """Give the other tool's mean and worst error on the cases it can answer."""
        if self.tool is None:
            return ""
        errors = []
        for case in cases:
            answer, truth = rival.ask(self.tool, case), measured(case)
            if answer and truth:
                errors.append(percent(answer[kind], truth))
        if not errors:
            return "cannot answer"
        return f"median {median(errors):.1f}, mean {mean(errors):.1f}, worst {max(errors):.1f} % of {len(errors)} rows"

    # ---- the lines ---------------------------------------------------------------------------------------------------

    def exact(self) -> None:
        """Parameters, operations, MFU; states of ZeRO."""
        sc21, mpt = self.of("SC'21 T1"), self.of("MPT")
        printed = [float(r["params_b"]) for r in published.rows(self.data, "megatron_sc21_table1_weak_scaling")]
        # Printed with one decimal: what rounding explains is no error.
        errors = [
            max(0.0, abs(c.model.parameters / 1e9 - p) - 0.05) / p * 100 for c, p in zip(sc21, printed, strict=True)
        ]
        self.add("parameters", "SC'21 Table 1, beyond rounding", len(errors), "worst", max(errors), 0.5)
        rows = [r for r in published.rows(self.data, "mosaicml_mpt_throughput") if "fp8" not in r["precision"]]
        counts = [percent(c.model.parameters, float(r["num_params"])) for c, r in zip(mpt, rows, strict=True)]
        self.add(
            "parameters",
            "MPT",
            len(counts),
            "worst",
            max(counts),
            0.5,
            rival=self.theirs(mpt[:40], "parameters", params),
        )
        mfu = []
        for c, r in zip(mpt, rows, strict=True):
            peak = 990e12 if c.cluster.gpu is H100 else 312e12
            got = float(r["throughput_tok_s_gpu"]) * c.model.palm_flops / peak * 100
            mfu.append(max(0.0, percent(got, float(r["mfu_pct"])) - 50 / float(r["throughput_tok_s_gpu"])))
        self.add("MFU formula", "MPT, beyond rounding", len(mfu), "worst", max(mfu), 0.5)
        states, psi = [], {"7.5B": 7.5e9, "128B": 128e9, "1T": 1e12}
        for r in published.rows(self.data, "zero_table1_model_state_gb"):
            for stage, column in ((1, "pos_gb"), (2, "pos_g_gb"), (3, "pos_g_p_gb")):
                layout = Layout(data=int(r["dp_degree"]), zero=stage)
                held = sum(state_bytes(psi[r["model"]], 0, layout, MIXED).values()) / 1e9
                rounding = (
                    0.5
                    if float(r[column]) >= 100 and "." not in r[column]
                    else 0.05
                    if float(r[column]) > 10
                    else 0.005
                )
                states.append(100 * max(0.0, abs(held - float(r[column])) - rounding) / float(r[column]))
        self.add("state memory", "ZeRO Table 1, beyond rounding", len(states), "worst", max(states), 2)
        sizes = []
        for r in published.rows(self.data, "zero_table2_max_model_size"):
            for stage, column in enumerate(("theo_baseline", "theo_pos", "theo_pos_g", "theo_pos_g_p")):
                each = sum(state_bytes(1.0, 0, Layout(data=64, zero=stage), MIXED).values())
                largest = 32e9 / each * int(r["mp"])
                told = float(r[column][:-1]) * {"B": 1e9, "T": 1e12}[r[column][-1]]
                sizes.append(percent(largest, told))
        self.add("largest model", "ZeRO Table 2, theory (prints 128B, 0.5T)", len(sizes), "median", median(sizes), 2)

    def figure1(self) -> None:
        """Korthikanti's Figures 1 and 7: states and activations."""
        runs = {c.name.split()[0]: c for c in self.of("Korthikanti T5")}
        states, kept, shares = [], [], []
        for r in published.rows(self.data, "korthikanti2022_figure1_memory_gib"):
            case = runs[r["model"]]
            both = r["mode"] != "none"
            layout = changed(case.layout, recompute="selective" if both else "none", sequence_parallel=both)
            held = memory(case.model, layout, case.software, fitted())
            all_states = sum(rank[k] for rank in held.ranks for k in ("parameters", "gradients", "optimizer"))
            states.append(percent(all_states / layout.pipeline / 2**30, float(r["params_and_optimizer_gib"])))
            first = held.ranks[0]["activations"] - (working_bytes(case.model, layout, case.software) if both else 0)
            kept.append(percent(first / 2**30, float(r["activations_gib"])))
        self.add("state memory", "Korthikanti Fig. 1, mean of the stages", len(states), "worst", max(states), 5)
        self.add("activation memory", "Korthikanti Fig. 1, first stage", len(kept), "worst", max(kept), 5)
        for r in published.rows(self.data, "korthikanti2022_figure7_activation_pct"):
            case = runs[r["model"]]
            base = layer_bytes(
                case.model, changed(case.layout, recompute="none", sequence_parallel=False), case.software
            )
            ways = (
                ("seqpar", "none", True),
                ("selective", "selective", False),
                ("seqpar_selective", "selective", True),
            )
            for column, mode, split in (*ways, ("full_recompute", "full", False)):
                layout = changed(case.layout, recompute=mode, sequence_parallel=split)
                shares.append(percent(100 * layer_bytes(case.model, layout, case.software) / base, float(r[column])))
        self.add("activation memory", "Korthikanti Fig. 7", len(shares), "worst", max(shares), 5)

    def peaks(self) -> None:
        """Measured peaks of memory."""
        for section, against, mark in (("torchtitan", "torchtitan, GiB", 15), ("BLOOM", "BLOOM's diary, GiB", 15)):
            cases = self.of(section, lambda c: c.memory is not None and self.predict(c) is not None)
            self.memory_line("activation memory", against, cases, mark)
        cases = self.of(
            "Playbook", lambda c: c.memory is not None and not c.fitted and self.predict_memory(c) is not None
        )
        self.memory_line("peak memory", "Playbook, nodes 2, 8, 32", cases, 10)

    def predict_memory(self, case: Case) -> float | None:
        """Give the bytes; None where the planner refuses the layout (no time is needed)."""
        try:
            return estimate(case.model, case.cluster, case.layout, case.software, simulate=None).memory_bytes
        except PlanError:
            return None

    def memory_line(self, what: str, against: str, cases: list[Case], mark: float) -> None:
        """Add the median error of peaks."""
        errors = [percent(self.predict_memory(c) or 0, c.memory or 1) for c in cases]
        theirs = self.theirs(cases[:: max(1, len(cases) // 100)], "memory", lambda c: c.memory)
        self.add(what, against, len(errors), "median", median(errors), mark, rival=theirs)

    def times(self) -> None:
        """Seconds of a step, on rows never fitted on."""
        cases = self.of("Korthikanti T5")
        errors = self.time_errors(cases)
        theirs = self.theirs(cases, "seconds", lambda c: c.seconds)
        self.add("iteration time", "Korthikanti Table 5", len(errors), "mean", mean(errors), 4, rival=theirs)
        self.add("iteration time", "Korthikanti Table 5", len(errors), "worst", max(errors), 9)
        pool: list[float] = []
        for section, against in (
            ("SC'21 T1", "SC'21 Table 1"), ("Llama 3 T4", "Llama 3 Table 4"), ("torchtitan", "torchtitan, 16 bits"),
            ("MPT", "MPT, rows not fitted on"),
        ):  # fmt: skip
            cases = self.of(section, lambda c: c.seconds is not None and not c.fitted)
            errors = self.time_errors(cases)
            pool += errors
            theirs = self.theirs(cases, "seconds", lambda c: c.seconds)
            self.add("iteration time", against, len(errors), "mean", mean(errors), rival=theirs)
            self.add("iteration time", against, len(errors), "worst", max(errors))
        self.add("iteration time", "SC'21 T1, Llama 3, torchtitan, MPT", len(pool), "mean", mean(pool), 8)
        self.add("iteration time", "SC'21 T1, Llama 3, torchtitan, MPT", len(pool), "worst", max(pool), 20)
        for section, against in (
            ("SC'21 T2 pipelines", "SC'21 Table 2, 530B"), ("SC'21 T2 ZeRO-3", "SC'21 Table 2, ZeRO-3"),
            ("BLOOM", "BLOOM's diary"),
        ):  # fmt: skip
            errors = self.time_errors(self.of(section, lambda c: not c.fitted))
            self.add("iteration time", against, len(errors), "median", median(errors))

    def time_errors(self, cases: list[Case]) -> list[float]:
        """Give the errors in percent."""
        pairs = ((self.predict(c), c) for c in cases)
        return [percent(e.step_seconds, c.seconds) for e, c in pairs if e and c.seconds]

    def playbook(self) -> None:
        """Throughput, ranking and fit of the Ultra-Scale Playbook's configurations."""
        healthy = self.of("Playbook", lambda c: c.healthy and c.seconds is not None)
        held = [c for c in healthy if not c.fitted]
        # Throughput is one over time: errors of throughput, not of seconds.
        pairs = [(e, c) for c in held if (e := self.predict(c))]
        errors = [percent(1 / e.step_seconds, 1 / (c.seconds or 1)) for e, c in pairs]
        theirs = self.theirs(held[::3], "seconds", lambda c: c.seconds)
        self.add(
            "throughput", "Playbook, nodes 2, 8, 32, healthy", len(errors), "median", median(errors), 8, rival=theirs
        )
        self.add("throughput", "Playbook, nodes 2, 8, 32, healthy", len(errors), "nine in ten", ninth(errors), 30)
        for name, cases in (("nodes 2, 8, 32", held), ("all nodes", healthy)):
            regrets, taus = self.ranking(cases)
            against = f"Playbook, {name}, by model and nodes"
            marks = (1, 10, 0.8) if name != "all nodes" else (None, None, None)
            self.add("regret of first choice", against, len(regrets), "median", median(regrets), marks[0])
            self.add("regret of first choice", against, len(regrets), "worst", max(regrets), marks[1])
            self.add("ranking", against, len(taus), "Kendall tau", mean(taus), marks[2], at_least=True, unit="")
        everything = self.of("Playbook")
        for name, cases in (("all rows", everything), ("nodes 2, 8, 32", [c for c in everything if not c.fitted])):
            ours, always = self.f1(cases)
            theirs = f"always yes: {always:.2f}"
            self.add(
                "fits or not", f"Playbook, {name}", len(cases), "F1", ours, 0.92, at_least=True, rival=theirs, unit=""
            )

    def ranking(self, cases: list[Case]) -> tuple[list[float], list[float]]:
        """Give, for each model and number of nodes, what the first choice loses on the best, and Kendall's tau."""
        groups: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
        for case in cases:
            e = self.predict(case)
            if e and case.seconds:
                groups[case.group].append((e.step_seconds, case.seconds))
        groups = {key: rows for key, rows in groups.items() if len(rows) > 1}
        regrets = [100 * (1 - min(t for _, t in rows) / min(rows)[1]) for rows in groups.values()]
        return regrets, [kendall(rows) for rows in groups.values()]

    def f1(self, cases: list[Case]) -> tuple[float, float]:
        """Give F1 of "fits", and that of always saying yes. A layout that is refused does not fit."""
        right = said = true = 0
        limit = 1 - fitted().reserve
        for case in cases:
            held = self.predict_memory(case)
            yes, ran = held is not None and held <= limit * case.cluster.gpu.memory, case.seconds is not None
            right, said, true = right + (yes and ran), said + yes, true + ran
        return 2 * right / (said + true), 2 * true / (len(cases) + true)

    def bubbles(self) -> None:
        """Zero Bubble's Table 5, from utils.schedule."""
        worst, count = 0.0, 0
        for r in published.rows(self.data, "zerobubble_table5_table9_1.5b_6.2b"):
            p, m = int(r["p"]), int(r["m"])
            f, b, w, hop = (float(r[k]) for k in ("t_f_ms", "t_b_ms", "t_w_ms", "t_comm_ms"))
            for name, column in (("1f1b", "bubble_1f1b"), ("zb-h1", "bubble_zbh1")):
                got = schedule.simulate(schedule.build(name, p, m), f, b, w, transfer=hop).bubble
                worst, count = max(worst, abs(round(got, 4) - float(r[column]))), count + 1
        self.add("pipeline bubble", "Zero Bubble Table 5, 1F1B and ZB-H1", count, "worst", worst, 0.0001, unit="of 1")

    def speed(self) -> None:
        """The best layouts of a 405B on 16,384 GPUs."""
        began = time.process_time()
        found = search(LLAMA_405B, Cluster(16384, H100, network=ROCE_400), global_batch=2048)
        spent = time.process_time() - began
        self.add("speed", "search: 405B on 16,384 GPUs", found.tried, "processor time", spent, 10, unit="s")


def changed(layout: Layout, **more: Any) -> Layout:
    """Give a layout with some fields changed."""
    return Layout(**{**vars(layout), **more})


def params(case: Case) -> float:
    """Give a model's parameters."""
    return case.model.parameters


def kendall(pairs: list[tuple[float, float]]) -> float:
    """Give Kendall's tau: pairs ordered alike less pairs ordered otherwise, over all pairs that are not ties."""
    alike = other = 0
    for i, (a, x) in enumerate(pairs):
        for b, y in pairs[:i]:
            sign = (a - b) * (x - y)
            alike, other = alike + (sign > 0), other + (sign < 0)
    return (alike - other) / max(1, alike + other)


def run(data: Path, tool: object | None = None) -> Scorecard:
    """Fill the scorecard."""
    card = Scorecard(data, tool)
    for part in (card.exact, card.figure1, card.peaks, card.times, card.playbook, card.bubbles, card.speed):
        part()
    return card


HELD_OUT = {
    "state memory": ("state memory", "ZeRO Table 1, beyond rounding"),
    "activation memory": ("activation memory", "Korthikanti Fig. 1, first stage"),
    "peak memory": ("peak memory", "Playbook, nodes 2, 8, 32"),
    "iteration time": ("iteration time", "SC'21 T1, Llama 3, torchtitan, MPT"),
    "throughput": ("throughput", "Playbook, nodes 2, 8, 32, healthy"),
    "pipeline bubble": ("pipeline bubble", "Zero Bubble Table 5, 1F1B and ZB-H1"),
}


def held_out(card: Scorecard) -> dict[str, str]:
    """Say for each term of e.why() how wrong it was: the lines of the scorecard that test it."""
    found = {}
    for name, key in HELD_OUT.items():
        lines = [line for line in card.lines if (line.what, line.against) == key]
        shown = ", ".join(f"{line.measure} {line.reached:.2g} {line.unit}" for line in lines)
        found[name] = f"{shown} ({key[1]}, {lines[0].rows} rows)"
    return found


def main() -> None:
    """Print the scorecard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the folder of the published tables; else $PLAN_DATA, else ../shared/data")
    parser.add_argument("--write", action="store_true", help="write the errors on held-out rows into fitted.json")
    given = parser.parse_args()
    data = published.folder(given.data)
    if data is None:
        raise SystemExit(
            "The published tables are not part of the course, and not in ../shared/data.\n"
            "Name their folder: make bench-plan DATA=FOLDER, or PLAN_DATA=FOLDER."
        )
    tool = rival.load()
    began = time.perf_counter()
    card = run(data, tool)
    print(f"{'what':24} {'against':38} {'rows':>5} {'measure':15} {'reached':>10} {'mark':>11} {'':12} llm-analysis")
    print("\n".join(str(line) for line in card.lines))
    missed = [line for line in card.lines if line.verdict.startswith("NOT")]
    marks = sum(line.mark is not None for line in card.lines)
    beside = "given half of the peak" if tool else "not installed"
    print(
        f"{marks - len(missed)} of {marks} marks reached, {time.perf_counter() - began:.0f} s. llm-analysis: {beside}."
    )
    if given.write:
        record = json.loads(FILE.read_text())
        FILE.write_text(json.dumps({**record, "held_out": held_out(card)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
