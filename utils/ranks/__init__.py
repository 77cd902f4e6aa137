"""Start ranks, run cells on all of them, and explain what goes wrong.

A rank is a process of one `torch.distributed` world. `start(4)` makes four; each keeps its variables from cell to
cell. Importing this package is light: torch is loaded in the ranks, and ipyparallel only when ranks start.

The rooms, by the process they run in:
    the notebook's kernel   `world` (the ranks that run), `watch` (looks on while a cell runs), `explain` (the report),
                            `show` (outputs by rank), `magic` (%%ranks), `launch` (how processes are started)
    processes of their own  `programs` (fork server, controller, stock engine)
    every rank              `engine` (runs cells, answers the watcher)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from utils.ranks.explain import RanksError, State

__all__ = ["RanksError", "State", "call", "connect", "gather", "run", "scatter", "start", "stop"]


def start(n: int = 4, *, fresh: bool = False, launcher: str = "auto") -> None:
    """Start `n` ranks, or keep those that run if there are `n` of them already.

    `fresh=True` starts anew in any case. `launcher` is "fork" (quick; Linux only), "stock" (ipyparallel's own) or
    "auto" (fork where the platform can). Raises `RanksError` if the ranks do not come up.
    """
    from utils.ranks import world

    world.start(n, fresh=fresh, launcher=launcher)


def stop() -> None:
    """End all ranks and what started them. Variables on the ranks are lost."""
    from utils.ranks import world

    world.stop()


def run(source: str, on: int | Iterable[int] | None = None) -> None:
    """Run `source` on every rank (or on the ranks in `on`) and print what they print and show, by rank.

    Raises `RanksError`, whose text explains what happened on which rank, when a rank does not finish the cell.
    """
    from utils.ranks import world

    world.current().run(source, on)


def gather(expression: str) -> list[Any]:
    """Return the value of `expression` on every rank, as a list by rank."""
    from utils.ranks import world

    return world.current().gather(expression)


def scatter(name: str, values: Sequence[Any]) -> None:
    """Give rank r the value `values[r]` as its variable `name`."""
    from utils.ranks import world

    world.current().scatter(name, values)


def call(function: Callable[..., Any], *args: Any, on: int | Iterable[int] | None = None) -> list[Any]:
    """Call an importable function with the same arguments on every rank (or on `on`); return its values by rank."""
    from utils.ranks import world

    return world.current().call(function, args, on)


def connect(profile: str | None = None, **options: Any) -> None:
    """Join a cluster of ipyparallel engines that is already running; each engine becomes a rank."""
    from utils.ranks import world

    world.connect(profile, **options)


def _register() -> None:
    """Register %%ranks if this import happens in IPython."""
    import sys

    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()) is not None:
        from utils.ranks.magic import register

        register(shell)


_register()
