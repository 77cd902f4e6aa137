"""Start ranks, run cells on all of them, and explain what goes wrong.

A rank is a process of one `torch.distributed` world. `start(4)` makes four; each keeps its variables from cell to
cell. Importing this package is light: torch is loaded in the ranks, and ipyparallel only when ranks start.

The rooms, by the process they run in:
    the notebook's kernel   `session` (the one world), `world` and `joined` (its processes), `launch` (starting them),
                            `cells` (running on them), `watch` and `stuck` (looking on), `explain` (the report),
                            `show` (outputs by rank), `magic` (%%ranks)
    processes of their own  `programs` (fork server, controller, stock engine)
    every rank              `engine` (the rank, for other rooms too), `execute` (running cells), `capture` (outputs),
                            `calls` (collectives and messages, seen in the dispatcher), `trace` (lines), `store`
    both                    `table` (what is about to be called, in shared memory)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from utils.ranks.explain import RanksError, State

__all__ = ["RanksError", "State", "call", "connect", "gather", "run", "scatter", "start", "stop"]


def start(n: int = 4, *, fresh: bool = False, launcher: str = "auto", gpu: bool = False) -> None:
    """Start `n` ranks, or keep those that run if there are `n` of them already.

    `fresh=True` starts anew in any case. `launcher` is "fork" (quick; Linux only), "stock" (ipyparallel's own) or
    "auto" (fork where the platform can). `gpu=True` gives each rank a GPU of its own as its `device`, and NCCL for
    tensors there. Raises `RanksError` if the ranks do not come up.
    """
    from utils.ranks import session

    session.start(n, fresh=fresh, launcher=launcher, gpu=gpu)


def stop() -> None:
    """End all ranks and what started them. Variables on the ranks are lost."""
    from utils.ranks import session

    session.stop()


def run(source: str, on: int | Iterable[int] | None = None) -> None:
    """Run `source` on every rank (or on the ranks in `on`) and print what they print and show, by rank.

    Raises `RanksError`, whose text explains what happened on which rank, when a rank does not finish the cell.
    """
    from utils.ranks import cells, session

    cells.run(session.current(), source, on)


def gather(expression: str) -> list[Any]:
    """Return the value of `expression` on every rank, as a list by rank. Raises `RanksError`."""
    from utils.ranks import cells, session

    return cells.gather(session.current(), expression)


def scatter(name: str, values: Sequence[Any]) -> None:
    """Give rank r the value `values[r]` as its variable `name`. Raises `RanksError`."""
    from utils.ranks import cells, session

    cells.scatter(session.current(), name, values)


def call(function: Callable[..., Any], *args: Any, on: int | Iterable[int] | None = None) -> list[Any]:
    """Call an importable function with the same arguments on every rank (or on `on`); return its values by rank.

    It is watched and explained like a cell: raises `RanksError`.
    """
    from utils.ranks import cells, session

    return cells.call(session.current(), function, args, on)


def connect(client: Any = None, *, interface: str | None = None, gpu: bool = False, **options: Any) -> None:
    """Make ranks of the engines of an ipyparallel cluster that is already running, in the order of their ids.

    `client` is an `ipyparallel.Client`; without one, one is made with `options` (`profile="slurm"`, `cluster_id=...`,
    `connection_info=...`). `interface` names the network device the ranks are to use between machines ("eth0"); without
    it the one that leads to the first rank. `gpu` is as in `start`. `ranks.stop()` leaves the cluster running. Raises
    `RanksError`.
    """
    from utils.ranks import session

    session.connect(client, options, interface, gpu)


def _register() -> None:
    """Register %%ranks if this import happens in IPython."""
    import sys

    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()) is not None:
        from utils.ranks.magic import register

        register(shell)


_register()
