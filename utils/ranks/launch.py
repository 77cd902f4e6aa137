"""How processes are started from the kernel: the fork server, and ipyparallel's launchers told to use it."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[2])
PROGRAM = [sys.executable, "-m", "utils.ranks.programs"]


def can_fork() -> bool:
    """Tell whether ranks can be forked here: macOS has `fork`, but not safely after importing torch."""
    return sys.platform == "linux"


def environment(folder: Path) -> dict[str, str]:
    """Return what launched processes need: their folder, the checkout on their path, one thread, figures inline."""
    path = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "RANKS_TMP": str(folder),
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


class Forker:
    """The kernel's handle on its fork server, which outlives `ranks.stop()` so that the next start is quick."""

    def __init__(self, folder: Path):
        env = {**os.environ, **environment(folder)}
        with open(folder / "forkserver.log", "ab") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "fork"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env,
                start_new_session=True,
            )  # fmt: skip
        self.gone: dict[int, int] = {}
        self.answers: collections.deque[dict[str, Any]] = collections.deque()
        self.changed = threading.Condition()
        self.alive = True
        threading.Thread(target=self._read, daemon=True, name="fork-server").start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            message = json.loads(line)
            with self.changed:
                if "gone" in message:
                    self.gone[message["gone"]] = message["status"]
                else:
                    self.answers.append(message)
                self.changed.notify_all()
        with self.changed:
            self.alive = False
            self.changed.notify_all()
        self.process.wait()

    def _answer(self, key: str, seconds: float) -> Any:
        with self.changed:
            self.changed.wait_for(lambda: self.answers or not self.alive, seconds)
            if not self.answers:
                raise RuntimeError("the fork server does not answer")
            return self.answers.popleft()[key]

    def wait_ready(self) -> None:
        """Wait until torch is imported in the server."""
        self._answer("ready", 120)

    def fork(self, **job: Any) -> int:
        """Fork one engine; return its process id."""
        assert self.process.stdin
        self.process.stdin.write((json.dumps(job) + "\n").encode())
        self.process.stdin.flush()
        return int(self._answer("forked", 20))

    def exit_status(self, pid: int) -> int | None:
        """Return how a forked engine ended (negative: signal), or None while it lives."""
        with self.changed:
            # A server that is gone has taken its engines along.
            return self.gone.get(pid, None if self.alive else -9)

    def end(self) -> None:
        """End the server and with it all its engines."""
        self.process.kill()
        self.process.wait()


def launcher_class(forker: Forker | None) -> Any:
    """Return the engine launcher for ipyparallel: forking if a fork server is given, else the stock one."""
    import psutil
    from ipyparallel.cluster.launcher import LocalEngineLauncher, LocalEngineSetLauncher

    class StockEngineLauncher(LocalEngineLauncher):
        """The stock one, which also keeps how its process ended."""

        exit_code = None

        def _wait(self) -> None:
            self.exit_code = self._popen_process.wait()
            self.loop.add_callback(lambda: self.notify_stop({"exit_code": self.exit_code, "pid": self.pid}))

    class StockEngineSetLauncher(LocalEngineSetLauncher):
        launcher_class = StockEngineLauncher

    if forker is None:
        return StockEngineSetLauncher

    class ForkedEngineLauncher(LocalEngineLauncher):
        def start(self) -> None:
            here = os.getcwd()
            argv = [*self.engine_args, f"--IPEngine.id={self.parent.first_id + int(self.identifier)}"]
            argv.append(f"--IPEngine.work_dir={here}")  # its default is where the fork server once started
            assert forker
            env = {**os.environ, **self.get_env()}
            self.pid = forker.fork(argv=argv, env=env, log=self.output_file, cwd=here)
            self.process = psutil.Process(self.pid)
            self.notify_start(self.pid)
            self._start_waiting()

    class ForkedEngineSetLauncher(LocalEngineSetLauncher):
        launcher_class = ForkedEngineLauncher

        def __init__(self, *args: Any, first_id: int = 0, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.first_id = first_id

    return ForkedEngineSetLauncher


def make_cluster(folder: Path, forker: Forker | None) -> Any:
    """Return an ipyparallel Cluster that keeps all it writes in `folder` and leaves ~/.ipython alone."""
    import ipyparallel

    cluster = ipyparallel.Cluster(
        engines=launcher_class(forker), profile_dir=str(folder), load_profile=False, parent=None, log_level=40,
        cluster_file="", shutdown_atexit=False,
        controller_args=[
            # An engine counts only after a heartbeat, so beat often; but never call one lost for missing beats
            # (a suspended laptop misses all of them).
            "--HeartMonitor.period=150", "--HeartMonitor.max_heartmonitor_misses=1000000",
            # One process with threads, where the default is nine: half the memory, a third of the time to start.
            "--IPController.use_threads=True", "--IPController.db_class=NoDB", "--log-level=40",
        ],
    )  # fmt: skip
    config = cluster.config
    config.LocalControllerLauncher.controller_cmd = [*PROGRAM, "controller"]
    config.LocalEngineSetLauncher.engine_cmd = config.LocalEngineLauncher.engine_cmd = [*PROGRAM, "engine"]
    config.LocalEngineSetLauncher.delay = 0.0
    config.BaseLauncher.environment = environment(folder)
    # The nanny is a second process per engine; the kernel watches the engines itself.
    config.EngineLauncher.engine_args = ["--IPEngine.enable_nanny=False", "--log-level=40"]
    return cluster
