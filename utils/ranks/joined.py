"""Ranks on the engines of a cluster that somebody else has started: with `ipcluster`, over SSH, by Slurm."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.ranks import engine
from utils.ranks.explain import RanksError, names
from utils.ranks.watch import Reply
from utils.ranks.world import KILL, World, alive, epochs

# An expression, because the engine may lack everything but Python; it is evaluated there.
PROBE = """{
    "missing": [name for name in ("torch", "psutil", "utils.ranks")
                if not __import__("importlib.util").util.find_spec(name.split(".")[0])
                or not __import__("importlib.util").util.find_spec(name)],
    "host": __import__("socket").gethostname(),
    "pid": __import__("os").getpid(),
    "sees": __import__("os").path.isdir(%r),
}"""


class JoinedWorld(World):
    """A world that is only borrowed: `close` leaves its engines running, and nothing of it can be replaced here."""

    def __init__(self, client: Any, options: dict[str, Any], interface: str | None, folder: Path, gpu: bool):
        self.mine = client is None
        self.client = client if client is not None else _client(options)
        self.ended = ""
        try:
            ids = sorted(self.client.ids)
            if not ids:
                raise RanksError(
                    "The cluster has no engines. Start some: ipcluster engines --n=4", cause="start"
                )  # fmt: skip
            super().__init__(len(ids), "joined", folder, gpu)
            self.engines = ids
            self._meet(interface)
            self.join()
        except BaseException:
            self.close()
            raise

    def _meet(self, interface: str | None) -> None:
        """Look at the engines, prepare them, and let rank 0 serve the store they meet over."""
        found = self._all(eval, range(self.n), PROBE % str(self.folder))
        _check(found)
        hosts = [f["host"] for f in found]
        here = socket.gethostname()
        self.hosts = set(hosts)
        self.check_gpus([hosts[:r].count(hosts[r]) for r in range(self.n)])
        self.pids = [f["pid"] if f["host"] == here else 0 for f in found]
        self.shared = all(f["sees"] and f["host"] == here for f in found)
        if self.shared:
            self.make_table()
        far = next((host for host in hosts if host != hosts[0]), None)
        # Within one machine the loopback device is enough, and needs no firewall's leave.
        (first,) = self._all(engine.reach, [0], interface, far)
        self._all(engine.reach, range(1, self.n), interface, first["host"] if far else None)
        self.address = first["host"], self._all(engine.serve, [0], first["host"])[0]["port"]

    def _all(self, function: Any, ranks: Iterable[int], *args: Any) -> list[Any]:
        """Call a function on these engines; return its values in their order."""
        jobs = [self.submit(r, function, *args) for r in ranks]
        try:
            return [job.get(timeout=120) for job in jobs]
        except Exception as e:
            text = f"An engine of the cluster cannot be a rank: {getattr(e, 'evalue', e)}."
            raise RanksError(text, cause="start") from None

    def meeting(self) -> Reply:
        """Return how the ranks of a new group find each other: over the store that rank 0 serves."""
        table = str(self.table_path) if self.shared else None
        host, port = self.address
        return {"epoch": next(epochs), "host": host, "port": port, "table": table, **self.devices()}

    def places(self) -> str:
        """Return the words for the number of machines, if there is more than one."""
        return f" on {len(self.hosts)} machines" if len(self.hosts) > 1 else ""

    def death(self, r: int) -> str | None:
        """Return how the engine of a rank ended, or None while it lives."""
        gone = not alive(self.pids[r]) if self.pids[r] else self.engines[r] not in self.client.ids
        return "its engine is gone" if gone else None

    def replace(self, ranks: list[int]) -> None:
        """Give the world up: only the cluster can start another engine."""
        left, which = self.n - len(ranks), f"engine{'s' * (len(ranks) > 1)} of {names(ranks)}"
        self.ended = (
            f"Only the cluster can start the {which} again. {left} of {self.n} are left, with their variables: "
            "ranks.connect(...) makes a world of them."
        )
        if self.mine:
            self.client.close()
        raise RanksError(self.ended, cause="died")

    def cannot_join(self, failed: Mapping[int, str]) -> None:
        """Raise: what the engines cannot do, no other one can be started for."""
        if dead := [r for r in failed if self.death(r)]:
            self.replace(dead)
        r, why = next(iter(failed.items()))
        self.ended = f"The engines could not form a process group (rank {r}: {why})."
        raise RanksError(self.ended, cause="start")

    def kill(self, r: int) -> None:
        """Kill the engine of a rank."""
        if self.pids[r]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[r], KILL)
        else:
            self.client.send_signal(KILL, targets=self.engines[r], block=False)

    def interrupt(self, r: int) -> None:
        """Interrupt what a rank runs."""
        self.ask([r], "interrupt")

    def lost(self) -> str:
        """Return why nothing can be asked of the ranks any more, or ""."""
        return self.ended

    def close(self) -> None:
        """Leave the groups, and the engines as they are."""
        if not self.ended:
            with contextlib.suppress(Exception):
                jobs = [self.submit(r, engine.leave) for r in range(self.n)]
                for job in jobs:
                    job.get(timeout=5)
        if self.mine:
            self.client.close()


def _client(options: dict[str, Any]) -> Any:
    """Return a client of the cluster that the options describe."""
    import ipyparallel

    try:
        return ipyparallel.Client(**{"timeout": 10, **options})
    except (OSError, TimeoutError, ipyparallel.error.TimeoutError) as e:
        which = ", ".join(f"{k}={v!r}" for k, v in options.items()) or "the default profile"
        raise RanksError(
            f"No cluster answers ({which}): {e}\nStart one first, for instance: ipcluster start --n=4", cause="start"
        ) from None


def _check(found: list[Reply]) -> None:
    """Raise if an engine lacks what a rank needs."""
    for r, what in enumerate(found):
        if what["missing"]:
            raise RanksError(
                f"Engine {r} (on {what['host']}) cannot import {', '.join(what['missing'])}. Install the course there, "
                "with the Python that runs the engines: pip install -r requirements.txt in a checkout.",
                cause="start",
            )
