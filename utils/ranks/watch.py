"""Look on while the ranks run a cell: notice who is stuck, dead or stopped, and let the others go."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.ranks.explain import RanksError
from utils.ranks.stuck import stuck

if TYPE_CHECKING:
    from utils.ranks.world import World

Reply = dict[str, Any]
PAUSE = 0.15  # seconds between two questions to the ranks
LOST = 15  # questions in a row that found nothing moving, after a failure: then the rest is let go as well
STOP_REST = 3.5  # seconds after a failure until ranks that still compute are stopped
AFTER_INTERRUPT = 3.0  # seconds until a rank that does not react to an interrupt is killed
AFTER_FREE = 3.0  # the same for one that was freed and waits all the same


class Watch:
    """One cell on some ranks, from start to end."""

    def __init__(self, world: World, cell: int, jobs: Mapping[int, Any], progress: Any = None):
        self.world, self.cell, self.jobs, self.progress = world, cell, jobs, progress
        self.done: dict[int, Reply] = {}
        self.last: dict[int, Reply] = {}  # by rank: its latest answer
        self.same: dict[int, int] = {}  # by rank: how many questions in a row found it in the same wait
        self.freed: dict[int, float] = {}
        self.stood: dict[int, Reply] = {}  # by rank: its answer before it was freed
        self.interrupted = 0.0
        self.failed = 0.0  # when a rank had failed
        self.stopped: set[int] = set()  # ranks that were stopped for that
        self.signalled = 0.0
        self.began = time.monotonic()
        self.asked = self.began

    def run(self) -> dict[int, Reply]:
        """Wait for all ranks; return their replies. A rank that died has the status "died"."""
        while True:
            try:
                if self._step():
                    return self.done
            except KeyboardInterrupt:
                self.interrupted = self.interrupted or time.monotonic()

    def _step(self) -> bool:
        self._collect()
        waiting = [r for r in self.jobs if r not in self.done]
        if not waiting:
            return True
        now = time.monotonic()
        if self.interrupted:
            self._interrupt(waiting, now)
        self._kill_late(waiting, now)
        if now - self.asked >= PAUSE:
            if text := self.world.lost():
                raise RanksError(text, cause="died")
            self._ask(waiting)
            if self.progress:
                self.progress.tick(now - self.began, waiting, self.last)
            self.asked = time.monotonic()
        return False

    def _collect(self) -> None:
        """Take in replies and deaths."""
        open_jobs = [job for r, job in self.jobs.items() if r not in self.done]
        pause = 0.02 if time.monotonic() - self.began < 5 else 0.1
        concurrent.futures.wait(open_jobs, pause, concurrent.futures.FIRST_COMPLETED)
        for r, job in self.jobs.items():
            if r in self.done:
                continue
            how = None if job.done() else self.world.death(r)
            if job.done():
                try:
                    self.done[r] = job.get()
                except Exception as e:
                    name, text = getattr(e, "ename", type(e).__name__), str(getattr(e, "evalue", e))
                    lost = name == "EngineError"
                    how = self.world.death(r) or "its process ended" if lost else None
                    self.done[r] = {"status": "raised", "name": name, "message": text, "frames": [], "place": ""}
            if how:
                self.world.unregister(r)
                self.done[r] = {**self._known(r), "status": "died", "how": how}
            if r in self.done:
                self._recall(r)
            if r in self.done and self.done[r]["status"] != "ok":
                self.failed = self.failed or time.monotonic()

    def _recall(self, r: int) -> None:
        """Keep where a freed rank had stood: another's broken connection may have let it go before its own turn."""
        done = self.done[r]
        told = (done.get("was") or {}).get("wait")
        if r in self.stood and not told and done["status"] != "died" and not self.interrupted:
            self.done[r] = {**done, "freed": True, "was": self.stood[r]}

    def _known(self, r: int) -> Reply:
        """Return what was seen of a rank before it died."""
        seen = self.last.get(r, {})
        return {"frames": seen.get("frames", []), "book": seen.get("book", {})}

    def _ask(self, waiting: list[int]) -> None:
        """Ask where the ranks stand; free those that wait in vain."""
        answers = self.world.ask(waiting, "where")
        waits: dict[int, Reply] = {}
        busy: set[int] = set()
        for r in waiting:
            answer = answers.get(r)
            if answer is None:
                self.world.continue_if_stopped(r)
            wait = answer.get("wait") if answer and answer.get("cell") == self.cell else None
            if answer is None or wait is None:
                busy.add(r)
                self.same[r] = 0
            else:
                before = (self.last.get(r) or {}).get("wait")
                self.same[r] = self.same.get(r, 0) + 1 if before and before["serial"] == wait["serial"] else 1
                waits[r] = wait
            if answer and answer.get("cell") == self.cell:
                self.last[r] = answer
        books = {**self.world.books, **{r: d["book"] for r, d in self.done.items() if d.get("book")}}
        books.update({r: a["book"] for r, a in self.last.items() if r in waiting and a.get("book")})
        # All were seen in the same waits twice, so between the two questions all of them waited at once.
        steady = {r: w for r, w in waits.items() if self.same[r] >= (2 if w["sure"] else 4) and r not in self.freed}
        busy |= {r for r in waits if r not in steady and r not in self.freed}
        vain = stuck(steady, busy, books, self.world.n)
        if self.failed and not busy and all(self.same[r] >= LOST for r in steady):
            vain |= set(steady)
        if vain:
            self._free(sorted(vain))
        self._stop_rest(busy)

    def _stop_rest(self, busy: set[int]) -> None:
        """Some time after a failure, stop the ranks that go on: what they do without the failed one is of no use."""
        now = time.monotonic()
        if self.failed and now - self.failed > STOP_REST and now - self.signalled > 1:
            self.signalled = now
            for r in busy:
                self.stopped.add(r)
                self.world.interrupt(r)

    def _free(self, ranks: list[int]) -> None:
        for r in ranks:
            call = (self.last.get(r, {}).get("wait") or {}).get("call")
            if call and call["kind"] == "any" and r not in self.freed:
                self._end_receive(r, call)
        self.world.ask(ranks, "free")
        for r in ranks:
            if r not in self.freed and self.last.get(r, {}).get("wait"):
                self.stood[r] = self.last[r]
            self.freed.setdefault(r, time.monotonic())
            self.same[r] = 0

    def _end_receive(self, r: int, call: Reply) -> None:
        """End a wait for a message from anyone: by a message, since broken connections do not end it."""
        self.world.ask([r], "end receive")
        for other in call["ranks"]:
            if other != r and other not in self.freed and not self.world.death(other):
                self.world.ask([other], "feed", 1.5, call={**call, "from": r})
                return

    def _interrupt(self, waiting: list[int], now: float) -> None:
        """Interrupt all ranks, again every second; free those that wait in C++, where no signal is seen.

        The second time all are freed that have not come: some may wait for something that no record shows.
        """
        if now - self.signalled < 1:
            return
        again, self.signalled = bool(self.signalled), now
        for r in waiting:
            self.world.interrupt(r)
        answers = self.world.ask(waiting, "where")
        self._free([r for r, a in answers.items() if again or a.get("wait")])

    def _kill_late(self, waiting: list[int], now: float) -> None:
        for r in waiting:
            late = self.interrupted and now - self.interrupted > AFTER_INTERRUPT
            still = self.same.get(r, 0) > 2 and r in self.freed and now - self.freed[r] > AFTER_FREE
            if late or still:
                with contextlib.suppress(OSError):
                    self.world.kill(r)
