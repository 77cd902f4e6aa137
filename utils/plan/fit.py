"""Fit the coefficients on the stated rows of the published tables: python -m utils.plan.fit --write

The loss is the mean over sources of the mean |log(predicted / measured)| of their rows, a source weighted by the root
of its number of rows, and each row cut at 0.35: one that ran far slower for reasons of its own counts no more than one
that is off by 40 %. Nelder and Mead's simplex, from round first guesses, in log space; shares stay below 0.95. No row,
model or machine has a number of its own, but for the Playbook's network.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from math import exp, log, sqrt
from statistics import median

from utils.plan import published
from utils.plan.cluster import EFA_400, Network
from utils.plan.coefficients import FILE, Coefficients
from utils.plan.layout import check
from utils.plan.memory import memory
from utils.plan.published import Case
from utils.plan.refuse import PlanError
from utils.plan.time import step

SHARES = (
    "matmul_a100",
    "matmul_h100",
    "flash_a100",
    "flash_h100",
    "memory_share",
    "link_share",
    "wire_share",
    "gather_share",
    "overlap",
)
CUT = 0.35
MOST = 0.95  # no share is let nearer to 1
TIMES = ("eager", "start", "host_eager", "host_tensor")


Fitted = tuple[Coefficients, Network]


def to_free(fit: Coefficients, net: Network) -> list[float]:
    """Turn what is fitted into numbers without bounds: the logit of a share, the logarithm of a time."""
    shares = [log(getattr(fit, n) / (MOST - getattr(fit, n))) for n in SHARES]
    return [*shares, *(log(getattr(fit, n)) for n in TIMES), log(net.latency), log(net.congestion)]


def from_free(free: list[float], fit: Coefficients, net: Network) -> Fitted:
    """Turn them back."""
    values = {n: MOST / (1 + exp(-x)) for n, x in zip(SHARES, free, strict=False)}
    values |= {n: exp(x) for n, x in zip(TIMES, free[len(SHARES) :], strict=False)}
    return replace(fit, **values), replace(net, latency=exp(free[-2]), congestion=exp(free[-1]))


def training_rows(cases: list[Case]) -> list[Case]:
    """Keep the rows that are fitted on: stated, healthy, and possible layouts."""
    found = []
    for case in cases:
        if case.fitted and case.healthy and case.seconds and possible(case):
            found.append(case)
    return found


def possible(case: Case) -> bool:
    """Say whether the planner would not refuse the layout."""
    try:
        check(case.model, case.cluster, case.layout)
    except PlanError:
        return False
    return True


def loss(fit: Coefficients, net: Network, rows: list[Case]) -> float:
    """Give the mean over sources of the mean error of their rows. net takes the place of the Playbook's network."""
    errors: dict[str, list[float]] = defaultdict(list)
    for case in rows:
        machine = replace(case.cluster, network=net) if case.cluster.network == EFA_400 else case.cluster
        seconds = step(case.model, case.layout, machine, case.software, fit, simulate=False).total
        errors[case.section].append(min(CUT, abs(log(seconds / (case.seconds or 1)))))
    weight = {section: sqrt(len(e)) for section, e in errors.items()}
    return sum(weight[s] * sum(e) / len(e) for s, e in errors.items()) / sum(weight.values())


def simplex(
    f: Callable[[list[float]], float], start: list[float], rounds: int, size: float = 0.25
) -> tuple[list[float], float]:
    """Minimise by Nelder and Mead's simplex (The Computer Journal 7, 1965)."""
    n = len(start)
    points = [start] + [[x + (size if i == j else 0) for j, x in enumerate(start)] for i in range(n)]
    ranked = sorted((f(p), p) for p in points)
    for _ in range(rounds):
        best, worst = ranked[0][0], ranked[-1]
        centre = [sum(p[j] for _, p in ranked[:-1]) / n for j in range(n)]

        def towards(
            scale: float, centre: list[float] = centre, far: list[float] = worst[1]
        ) -> tuple[float, list[float]]:
            point = [c + scale * (c - w) for c, w in zip(centre, far, strict=True)]
            return f(point), point

        new = towards(1)
        if new[0] < best:
            new = min(new, towards(2))
        elif new[0] >= ranked[-2][0]:
            new = min(towards(0.5), towards(-0.5)) if new[0] < worst[0] else towards(-0.5)
        if new[0] < worst[0]:
            ranked[-1] = new
        else:
            near = [[b + 0.5 * (x - b) for x, b in zip(p, ranked[0][1], strict=True)] for _, p in ranked[1:]]
            ranked[1:] = [(f(p), p) for p in near]
        ranked.sort()
    return ranked[0][1], ranked[0][0]


def fit_time(rows: list[Case], rounds: int, restarts: int = 3) -> Fitted:
    """Fit what makes time: the simplex from round first guesses, started again from where it ended."""
    first, net = Coefficients(), replace(EFA_400, latency=55e-6, congestion=0.13)
    free = to_free(first, net)
    for _ in range(restarts):
        free, reached = simplex(lambda x: loss(*from_free(x, first, net), rows), free, rounds)
        print(f"loss {reached:.4f}", flush=True)
    return from_free(free, first, net)


def fit_memory(cases: list[Case], fit: Coefficients) -> Coefficients:
    """Fit what makes memory, on the Playbook's fitted nodes: first the holes by the median error, then the reserve by
    F1.
    """
    known = [c for c in cases if c.section == "Playbook" and c.fitted and possible(c)]
    ran = [c for c in known if c.memory]

    def off(holes: float) -> float:
        with_holes = replace(fit, holes=holes)
        totals = [memory(c.model, c.layout, c.software, with_holes).total / (c.memory or 1) for c in ran]
        return median(abs(log(t)) for t in totals)

    fit = replace(fit, holes=min((k / 10 for k in range(0, 31, 2)), key=off))
    peaks = [
        (memory(c.model, c.layout, c.software, fit).total / c.cluster.gpu.memory, c.seconds is not None) for c in known
    ]

    def f1(reserve: float) -> float:
        right = sum(ran and peak <= 1 - reserve for peak, ran in peaks)
        said, true = sum(peak <= 1 - reserve for peak, _ in peaks), sum(ran for _, ran in peaks)
        return 2 * right / (said + true)

    return replace(fit, reserve=max((k / 200 for k in range(0, 61)), key=f1))


def main() -> None:
    """Fit, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the folder of the published tables")
    parser.add_argument("--write", action="store_true", help="write fitted.json")
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    data = published.folder(given.data)
    if data is None:
        raise SystemExit("The published tables are not here. Name their folder with --data or $PLAN_DATA.")
    cases = published.cases(data)
    rows = training_rows(cases)
    found, net = fit_time(rows, given.rounds)
    found = fit_memory(cases, found)
    values = {name: float(f"{value:.4g}") for name, value in vars(found).items()}
    efa = {"latency": float(f"{net.latency:.3g}"), "congestion": float(f"{net.congestion:.3g}")}
    print(json.dumps({"values": values, "efa": efa}, indent=1))
    if given.write:
        old = json.loads(FILE.read_text()) if FILE.exists() else {"held_out": {}}
        counts = dict(Counter(case.section for case in rows))
        text = json.dumps({"values": values, "efa": efa, "rows": counts, "held_out": old["held_out"]}, indent=1)
        FILE.write_text(text + "\n")
        print("Copy efa's two numbers into cluster.EFA_400; a test compares them.")


if __name__ == "__main__":
    main()
