"""The schedules of the literature, written down.

Each is a short rule for one rank: which kind of action on which stage comes next. Micro-batches need no rule, since
every stage takes them in order: `_number` fills them in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from utils.schedule.actions import BACKWARD, FORWARD, INPUT, WEIGHT, Action, Schedule, ScheduleError, from_rows

Step = tuple[str, int]  # kind, stage
F, B, I, W = FORWARD, BACKWARD, INPUT, WEIGHT  # noqa: E741


def build(
    name: str | Iterable[Iterable], stages: int | None = None, micro_batches: int = 1, per_rank: int | None = None
) -> Schedule:
    """Build the schedule called `name`, or one of your own from plain lists of actions, one list a rank.

    stages: all stages of the model. per_rank: stages that each rank holds; there are stages / per_rank ranks. It is 2
    for zb-v and dualpipe-v, 2 if not said for interleaved-1f1b, and 1 for the others.
    Raises ScheduleError for an unknown name and for sizes that the schedule cannot have.
    """
    if not isinstance(name, str):
        return from_rows(name)
    if name not in _RULES:
        raise ScheduleError(f"There is no schedule {name!r}. There are: {', '.join(_RULES)}")
    if stages is None or stages < 1 or micro_batches < 1:
        given = f"stages={stages}, micro_batches={micro_batches}"
        raise ScheduleError(f"{name}: stages and micro_batches are whole numbers from 1 up, not {given}")
    own, rule = _RULES[name]
    held = per_rank if per_rank is not None else own or 2
    if own and held != own:
        raise ScheduleError(f"{name} has {own} stage{'s' * (own > 1)} a rank, not {held}")
    if held < 1 or stages % held:
        near = sorted({max(held, stages - stages % held), stages - stages % held + held}) if held > 0 else [stages]
        raise ScheduleError(f"{name}: {stages} stages cannot stand on ranks by {held}; nearest: {near}")
    p = stages // held
    v_shaped = name in ("zb-v", "dualpipe-v")
    placement = tuple(2 * p - 1 - s if v_shaped and s >= p else s % p for s in range(stages))
    rows = (_number(rule(rank, p, micro_batches, held), micro_batches) for rank in range(p))
    return Schedule(name, tuple(map(tuple, rows)), placement, micro_batches)


def _number(steps: Iterable[Step], micro_batches: int) -> Iterator[Action]:
    """Give each step its micro-batch: every stage takes them in order; those past the last are left out."""
    forwards: dict[int, int] = defaultdict(int)
    backwards: dict[int, int] = defaultdict(int)
    owed: dict[int, list[int]] = defaultdict(list)  # by stage: micro-batches whose weights' backward is still to come
    for kind, stage in steps:
        if kind == W:
            micro_batch = owed[stage].pop(0)
        else:
            counter = forwards if kind == F else backwards
            micro_batch = counter[stage]
            counter[stage] += 1
            if kind == I:
                owed[stage].append(micro_batch)
        if micro_batch < micro_batches:
            yield Action(stage, kind, micro_batch)


def _naive(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Send one micro-batch through and back before the next starts; with one, this is the whole batch at once."""
    yield from [(F, rank), (B, rank)] * m


def _gpipe(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Do all forwards, then all backwards (Huang et al., arXiv:1811.06965, section 2.3)."""
    yield from [(F, rank)] * m + [(B, rank)] * m


def _one_f_one_b(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Alternate one backward and one forward once a backward can start (Narayanan et al., arXiv:2104.04473)."""
    ahead = min(m, p - rank)
    yield from [(F, rank)] * ahead + [(B, rank), (F, rank)] * (m - ahead) + [(B, rank)] * ahead


def _interleaved(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Let each rank hold several stages and go round them (Narayanan et al., arXiv:2104.04473, section 2.2.2)."""
    rounds = max(1, m // p)
    if m % rounds:
        fits = [n for n in range(1, 2 * m) if n % max(1, n // p) == 0]
        near = [max(n for n in fits if n < m), min(n for n in fits if n > m)]
        raise ScheduleError(f"interleaved-1f1b: {m} micro-batches do not go round {p} ranks evenly; nearest: {near}")
    width = m // rounds  # micro-batches a stage takes before the rank turns to its next stage
    total = m * held
    ahead = min((held - 1) * width + 2 * (p - 1 - rank), total)

    def forward(k: int) -> Step:
        return F, k // width % held * p + rank

    def backward(k: int) -> Step:
        return B, (held - 1 - k // width % held) * p + rank

    yield from map(forward, range(ahead))
    for k in range(total - ahead):
        yield forward(ahead + k)
        yield backward(k)
    yield from map(backward, range(total - ahead, total))


def _split(rank: int, m: int, ahead: int, owing: int) -> Iterator[Step]:
    """Do `ahead` forwards, then `I` and `F` by turns; put off up to `owing` backwards for weights."""
    ahead = min(m, ahead)
    yield from [(F, rank)] * ahead
    for k in range(m):
        yield I, rank
        if k >= owing:
            yield W, rank
        if ahead + k < m:
            yield F, rank
    yield from [(W, rank)] * min(m, owing)


def _zb_h1(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Fill waiting with backwards for weights, in 1F1B's memory (Qi et al., arXiv:2401.10241, section 2.1)."""
    yield from _split(rank, m, ahead=p - rank, owing=rank)


def _zb_h2(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Start with more forwards, so that nothing waits, at up to twice the memory (Qi et al., arXiv:2401.10241, 2.2)."""
    yield from _split(rank, m, ahead=2 * (p - rank) - 1, owing=2 * rank)


def _zb_v(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Fold the model into a V, each rank holding a stage of either arm (Qi et al., arXiv:2401.10241, section 6)."""
    down, up = rank, 2 * p - 1 - rank
    count = max(m, 2 * p - 1)  # the rule needs so many; those too many are left out
    yield from [(F, down)] * (2 * (p - rank) - 1)
    yield from [(F, up), (F, down)] * rank
    yield from [(F, up), (I, up), (W, up)] * (p - rank)
    started, ended = 2 * p - 1 - rank, p  # forwards begun on the way down, ended on the way up
    while ended < started or started < count:
        if started < count:
            yield F, down
            started += 1
        yield from [(I, down), (W, down), (F, up), (I, up), (W, up)]
        ended += 1
    yield from [(I, down), (I, up)] * rank
    yield from [(I, down), (W, down)] * (p - rank)
    yield from [(W, up)] * rank + [(W, down)] * rank


def _dualpipe_v(rank: int, p: int, m: int, held: int) -> Iterator[Step]:
    """Pair a forward with a backward on a folded model (DeepSeek-AI, arXiv:2412.19437, section 3.2.1; its V).

    On real devices each pair computes at the same time as it communicates; here its two actions follow each other.
    """
    if m < 2 * p:
        raise ScheduleError(f"dualpipe-v needs at least as many micro-batches as stages: {2 * p}, not {m}")
    down, up = rank, 2 * p - 1 - rank
    later = p - rank - 1
    yield from [(F, down)] * (2 * later)
    yield from [(F, down), (F, up)] * (rank + 1)
    yield from [(I, up), (W, up), (F, up)] * later
    yield from [(F, down), (B, up), (F, up), (B, down)] * (m - 2 * p + rank + 1)
    yield from [(B, up), (F, up), (B, down)] * later
    owed: list[int] = []
    backwards = [stage for _ in range(rank + 1) for stage in (up, down)]
    whole = rank + 1  # the first half of the last backwards is whole, the second half puts its weights off
    for k, stage in enumerate(backwards):
        yield (B if k < whole else I), stage
        if k >= whole:
            owed.append(stage)
    for _ in range(later):
        if owed:
            yield W, owed.pop(0)
        split = len(backwards) > whole
        yield (I if split else B), down
        if split:
            owed.append(down)
    yield from [(W, stage) for stage in owed]


_RULES: dict[str, tuple[int | None, Callable[[int, int, int, int], Iterator[Step]]]] = {
    "naive": (1, _naive),
    "gpipe": (1, _gpipe),
    "1f1b": (1, _one_f_one_b),
    "interleaved-1f1b": (None, _interleaved),
    "zb-h1": (1, _zb_h1),
    "zb-h2": (1, _zb_h2),
    "zb-v": (2, _zb_v),
    "dualpipe-v": (2, _dualpipe_v),
}
NAMES = tuple(_RULES)
