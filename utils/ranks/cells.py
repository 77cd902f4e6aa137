"""Run things on the ranks of a world: send, watch, show, and where something failed repair and explain."""

from __future__ import annotations

import contextlib
import itertools
import keyword
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.ranks import execute
from utils.ranks.explain import Case, RanksError, Report, State, names
from utils.ranks.show import Progress, show, spooled
from utils.ranks.watch import Reply, Watch
from utils.ranks.world import World

_numbers = itertools.count(1)  # of cells


def run(
    world: World, source: str, on: int | Iterable[int] | None = None, first_line: int = 1, alone: bool = False
) -> None:
    """Run a cell; see `utils.ranks.run`. `alone`: it is a whole notebook cell, so progress may be shown."""
    ranks = targets(world, on)
    if source.strip():
        # IPython drops empty lines at the top, and would count without them.
        top = len(source[: len(source) - len(source.lstrip())].split("\n")) - 1
        source, first_line = "\n".join(source.split("\n")[top:]), first_line + top
    spools = {r: world.folder / f"out-{r}" if world.shared else None for r in ranks}
    progress = Progress.here(lambda r: _last_line(spools[r])) if alone else None
    args = {r: (source,) for r in ranks}
    more = {r: (str(path) if path else None,) for r, path in spools.items()}
    with world.turn:
        try:
            watch = _each(world, execute.run_cell, args, source, first_line, more, progress)
        finally:
            if progress:
                progress.end()
        show({r: d["output"] if "output" in d else spooled(spools[r]) for r, d in watch.done.items()})
        _settle(world, watch, watch.done, "cell")


def gather(world: World, expression: str) -> list[Any]:
    """Return the value of an expression by rank."""
    if not isinstance(expression, str):
        raise RanksError(f"ranks.gather takes an expression as text, not {type(expression).__name__}.", cause="usage")
    args = {r: (expression.strip(),) for r in range(world.n)}
    return _values(world, execute.evaluate, args, expression, "expression")


def scatter(world: World, name: str, values: Sequence[Any]) -> None:
    """Set a variable by rank."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise RanksError(f"ranks.scatter: {name!r} cannot be the name of a variable.", cause="usage")
    if len(values) != world.n:
        text = f"ranks.scatter({name!r}, ...): {len(values)} values for {world.n} ranks; give one for each."
        raise RanksError(text, cause="usage")
    try:
        args = {r: (name, pickle.dumps(values[r])) for r in range(world.n)}
    except Exception as e:
        text = f"ranks.scatter({name!r}, ...): a value cannot be sent to the ranks ({type(e).__name__}: {e})."
        raise RanksError(text, cause="pickle") from None
    _values(world, execute.assign, args, "", "value")


def call(
    world: World, function: Callable[..., Any], args: tuple[Any, ...], on: int | Iterable[int] | None
) -> list[Any]:
    """Call a function by rank."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    if module in (None, "__main__") or "<" in name:
        text = "ranks.call takes a function of an installed module, which the ranks can import. For code of the "
        raise RanksError(text + "notebook write a %%ranks cell.", cause="usage")
    where = (module, name, pickle.dumps(args))
    return _values(world, execute.call, {r: where for r in targets(world, on)}, "", "call")


def targets(world: World, on: int | Iterable[int] | None) -> list[int]:
    """Return the ranks meant by `on`, in order."""
    if on is None:
        return list(range(world.n))
    chosen = sorted({on} if isinstance(on, int) else set(on))
    if wrong := [r for r in chosen if r not in range(world.n)]:
        there = f"there are {world.n}: 0 to {world.n - 1}" if world.n > 1 else "there is one: rank 0"
        raise RanksError(f"There is no {names(wrong).replace('ranks', 'rank')}; {there}.", cause="usage")
    if not chosen:
        raise RanksError("No rank is named, so nothing was run.", cause="usage")
    return chosen


def replace_dead(world: World) -> None:
    """Replace ranks that died since the last cell, and raise, for their variables are lost."""
    dead = {r: how for r in range(world.n) if (how := world.death(r))}
    if not dead:
        return
    world.replace(sorted(dead))
    lost = sorted({*dead, *world.join()})
    how = sorted(set(dead.values()))[0]
    text = [f"Since the last cell {names(dead)} died: {how}.", _repaired(lost, True, world.n)]
    raise RanksError("\n".join(text), "died", {r: State("died", message=how) for r, how in dead.items()})


def _values(
    world: World, function: Callable[..., Any], args: dict[int, tuple[Any, ...]], source: str, what: str
) -> list[Any]:
    """Call a function of `execute` on ranks; return the values by rank."""
    with world.turn:
        return _values_in_turn(world, function, args, source, what)


def _values_in_turn(
    world: World, function: Callable[..., Any], args: dict[int, tuple[Any, ...]], source: str, what: str
) -> list[Any]:
    watch = _each(world, function, args, source, 1)
    _settle(world, watch, watch.done, what)
    replies = watch.done
    values: list[Any] = []
    failed = {}
    for r in sorted(replies):
        try:
            values.append(pickle.loads(replies[r]["value"]))
        except Exception as e:  # of a class, say, that only the ranks know
            reason = {"status": "raised", "name": type(e).__name__, "message": str(e), "frames": [], "pickle": True}
            failed[r] = {**replies[r], **reason}
    if failed:
        _settle(world, watch, {**replies, **failed}, what)
    return values


def _each(
    world: World, function: Callable[..., Any], args: Mapping[int, tuple[Any, ...]], source: str, first_line: int,
    more: Mapping[int, tuple[Any, ...]] | None = None, progress: Progress | None = None,
) -> Watch:  # fmt: skip
    """Call a function of `execute` on ranks, watched. Returns what was seen."""
    replace_dead(world)
    cell = next(_numbers)
    world.cells[cell] = (source, first_line)
    jobs = {r: world.submit(r, function, *a, cell, *(more[r] if more else ())) for r, a in args.items()}
    watch = Watch(world, cell, jobs, progress)
    replies = watch.run()
    world.books.update({r: d["book"] for r, d in replies.items() if d.get("book")})
    return watch


def _settle(world: World, watch: Watch, replies: Mapping[int, Reply], what: str) -> None:
    """After a cell: if anything went wrong, repair it and raise the explanation."""
    lines = {r: world.line(r, watch.cell) for r in replies}
    stopped, interrupted = frozenset(watch.stopped), bool(watch.interrupted)
    case = Case(watch.cell, world.n, replies, world.books, world.cells, what, interrupted, stopped, lines)
    report = Report(case)
    outside = [r for r in range(world.n) if r not in replies and world.death(r)]
    lost = sorted([r for r, d in replies.items() if d["status"] == "died"] + outside)
    no_group = any(d.get("group") is False for d in replies.values())
    freed = any(d.get("freed") for d in replies.values())
    broken = bool(lost or no_group or freed or report.out_of_step)
    if not report.failed and not broken:
        return
    try:
        if lost:
            world.replace(lost)
        if broken:
            lost = sorted({*lost, *world.join()})
    except RanksError as e:  # it cannot be repaired: what happened, and why not
        raise RanksError(f"{report.text('')}\n{e}", report.cause, report.states()) from None
    repaired = _repaired(lost, broken, world.n)
    if not report.failed:
        print(repaired)
        return
    raise RanksError(report.text(repaired), report.cause, report.states())


def _repaired(lost: list[int], remade: bool, n: int) -> str:
    """Return the words for what was repaired in a world of `n` ranks."""
    text = ""
    if lost:
        process = "a fresh process: its variables are" if len(lost) == 1 else "fresh processes: their variables are"
        text = f"{names(lost)} {'was' if len(lost) == 1 else 'were'} replaced by {process} lost.\n"
        text = text[0].upper() + text[1:]
    if remade:
        kept = "; the other ranks' variables are kept" if lost else "; variables are kept"
        kept = "" if len(lost) == n else kept
        text += f"The process group was made anew{kept}. Make sub-groups, DDP wrappers and meshes again."
    return text.rstrip("\n")


def _last_line(path: Path | None) -> str:
    """Return the last line that a rank has printed so far, shortened."""
    with contextlib.suppress(OSError, TypeError), open(path or "", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 400))
        lines = file.read().decode(errors="replace").splitlines()
        return lines[-1][:100] if lines else ""
    return ""
