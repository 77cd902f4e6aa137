"""The magic in a real kernel, and what is left when the kernel ends, however it ends."""

import os
import queue
import signal
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from jupyter_client import KernelManager

MARK = "RANKS_TEST_KERNEL"


class Kernel:
    """A kernel like a notebook's, and the processes that belong to it: its environment's mark is inherited."""

    def __init__(self, cell_id: str = ""):
        self.mark, self.cell_id = f"{os.getpid()}-{time.monotonic_ns()}", cell_id
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**os.environ, MARK: self.mark})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, source: str, after: float = 0) -> tuple[str, list[str], list[str]]:
        """Run a cell; return what it printed, the traceback shown, and the types of its messages."""
        message = self.client.session.msg(
            "execute_request", {"code": source, "silent": False, "store_history": True, "user_expressions": {},
                                "allow_stdin": False, "stop_on_error": True},
        )  # fmt: skip
        if self.cell_id:
            message["metadata"]["cellId"] = self.cell_id
        self.client.shell_channel.send(message)
        begun, text, shown, kinds = time.monotonic(), "", [], []
        while True:
            if after and time.monotonic() - begun > after:
                self.manager.interrupt_kernel()
                after = 0
            try:
                answer = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                assert time.monotonic() - begun < 120, "the kernel hangs"
                continue
            if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            kinds.append(answer["msg_type"])
            if answer["msg_type"] == "stream":
                text += answer["content"]["text"]
            if answer["msg_type"] == "error":
                shown = answer["content"]["traceback"]
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return text, shown, kinds

    def processes(self, kernels: bool = False) -> list[psutil.Process]:
        """Return the living processes that this kernel has started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found if kernels else [p for p in found if "ipykernel_launcher" not in " ".join(_line(p))]

    def end(self) -> None:
        """End the kernel and whatever is left of it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        for process in self.processes(kernels=True):
            process.kill()


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A fresh kernel."""
    running = Kernel()
    yield running
    running.end()


@pytest.fixture(scope="module")
def course() -> Iterator[Kernel]:
    """A kernel with four ranks, seen from a front end that shows which cell it runs, as JupyterLab does."""
    running = Kernel(cell_id="abc")
    assert running.run("from utils import ranks\nranks.start(4)")[0] == "Starting 4 ranks ... ready.\n"
    yield running
    running.end()


def test_magic(course):
    assert course.run("%%ranks\nx = torch.full((3,), float(rank))\ndist.all_reduce(x)\nx")[0] == (
        "ranks 0-3: tensor([6., 6., 6.])\n"
    )
    assert course.run("%%ranks 0,2\nrank")[0] == "rank 0: 0\nrank 2: 2\n"
    assert course.run("%%ranks 1-2\nrank")[0] == "rank 1: 1\nrank 2: 2\n"


def test_lines_are_counted_as_jupyterlab_shows_them(course):
    text, shown, _ = course.run("%%ranks\n\nprint('a')\nif rank == 1:\n    1 / 0\ndist.barrier()")
    assert text == "ranks 0-3: a\n"
    assert shown[0] == "The cell stopped: rank 1 raised ZeroDivisionError."
    assert "rank 1: raised ZeroDivisionError at line 5: 1 / 0" in shown
    assert "ranks 0, 2-3: waited in barrier at line 6: dist.barrier()" in shown
    assert not any("utils/ranks" in line or "Traceback" in line for line in shown)
    assert course.run("%%ranks\nrank * 0")[0] == "ranks 0-3: 0\n"


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%%ranks 7\n1", "There is no rank 7; there are 4: 0 to 3."),
        ("%%ranks x\n1", "%%ranks x: 'x' is not a rank."),
        ("%%ranks\nx y", "The cell cannot be read as Python."),
        ("# mine\n%%ranks\n1", "%%ranks must be the first line of its cell;"),
    ],
)
def test_mistakes(course, cell, says):
    assert course.run(cell)[1][0].startswith(says)


def test_a_syntax_error_names_the_line_of_the_notebook(course):
    shown = course.run("%%ranks\nx = 1\nfor i in range(3)\n    pass")[1]
    assert shown[1].startswith("ranks 0-3: line 3: ")


def test_before_the_start(kernel):
    shown = kernel.run("from utils import ranks")[1] or kernel.run("%%ranks\n1")[1]
    assert shown == ["No ranks are running. Start them first: ranks.start(4)"]
    assert "`ranks.start(4)` makes it on every rank" in kernel.run("dist.barrier()")[0]
    assert kernel.run("nowhere")[0] == ""


def test_a_forgotten_magic(course):
    assert not course.run("%%ranks 0,2-3\nonly_there = rank")[1]
    text, shown, _ = course.run("only_there + 1")
    assert any("NameError" in line for line in shown)
    assert text == (
        "`only_there` stands on ranks 0, 2-3, and this cell ran in the notebook's own process. Begin it with %%ranks "
        "to run it there, or fetch the values: ranks.gather('only_there').\n"
    )
    assert "`dist` stands on ranks 0-3" in course.run("dist.barrier()")[0]
    assert course.run("nowhere")[0] == ""
    course.run("%%ranks\nimport os")
    course.run("import os, psutil\none = psutil.Process(ranks.gather('os.getpid()')[1])\none.kill()\none.wait()")
    assert "rank 1 died" in course.run("nowhere")[0]
    assert course.run("nowhere")[0] == ""


def test_figures_and_tables_reach_the_notebook(course):
    kinds = course.run("%%ranks\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);")[2]
    assert "display_data" in kinds
    text, _, kinds = course.run("%%ranks\nimport pandas as pd\nprint('table')\npd.DataFrame({'a': [1]})")
    assert text == "ranks 0-3:\ntable\n"
    assert "display_data" in kinds


def test_a_long_cell_shows_that_it_runs_and_leaves_no_trace(course):
    text, _, kinds = course.run("%%ranks\nimport time\nprint('begun')\ntime.sleep(5)")
    assert kinds.count("display_data") == 1
    assert kinds.count("update_display_data") >= 1
    assert kinds.index("clear_output") < kinds.index("stream")
    assert text == "ranks 0-3: begun\n"


def test_interrupting_the_kernel(course):
    course.run("%%ranks\nkept = rank")
    _, shown, _ = course.run("%%ranks\nwhile True:\n    pass", after=2)
    assert shown[0] == "You interrupted the cell."
    assert "was interrupted at line " in shown[1]
    assert course.run("%%ranks 3\nkept")[0] == "rank 3: 3\n"


def test_a_program_that_executes_notebooks_gets_no_progress(kernel):
    kernel.run("from utils import ranks\nranks.start(2)")
    assert "display_data" not in kernel.run("%%ranks\nimport time\ntime.sleep(4)")[2]


ENDINGS = {
    "shutdown": lambda k: k.manager.shutdown_kernel(),
    "restart": lambda k: k.manager.restart_kernel(),
    "restart at once": lambda k: k.manager.restart_kernel(now=True),
    "killed": lambda k: os.kill(k.manager.provisioner.pid, signal.SIGKILL),
}


@pytest.mark.parametrize("launcher", ["fork", "stock"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_process_outlives_its_kernel(kernel, ending, launcher):
    if launcher == "fork" and sys.platform != "linux":
        pytest.fail("the fork launcher is Linux's")
    text, shown, _ = kernel.run(f"from utils import ranks\nranks.start(2, launcher={launcher!r})")
    assert text.endswith("ready.\n"), shown
    assert len(kernel.processes()) >= 3  # two ranks and the controller at least
    # A cell that runs while the kernel goes: one rank waits, the other keeps the interpreter to itself.
    kernel.client.execute("ranks.run('if rank: dist.barrier()\\nsum(range(10**12))')")
    time.sleep(1)
    begun = kernel.processes()
    ENDINGS[ending](kernel)
    _, left = psutil.wait_procs(begun, timeout=10)
    assert [" ".join(_line(p)) for p in left] == []
    assert [p for p in kernel.processes() if p in begun] == []
