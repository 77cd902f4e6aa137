"""A limit on a process's memory is real: what does not fit fails, and the process lives on."""
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from utils import limit

def tensor(megabytes):
    return torch.ones(int(megabytes * 1e6 / 4))

def fits(megabytes, need):
    try:
        with limit.memory(megabytes):
            keep = tensor(need)
        return True
    except (RuntimeError, MemoryError):
        return False

answers = [fits(100, 60), fits(100, 150), fits(100, 60), fits(200, 150), fits(100, 150)]
free = tensor(400).numel()   # outside the block there is no limit
print(answers, free)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit on data")
def test_what_does_not_fit_fails_and_the_limit_lifts_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[0] == "[True, False, True, True, False] 100000000", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit on data")
def test_a_kept_error_does_not_keep_what_filled_the_memory():
    program = PROGRAM.split("answers")[0] + """
def fill():
    held = [tensor(10) for _ in range(100)]

try:
    with limit.memory(100):
        fill()
except (RuntimeError, MemoryError) as error:
    kept = error
print(fits(100, 80))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr


def test_where_there_is_no_such_limit_a_line_says_so(monkeypatch, capsys):
    from utils import limit

    monkeypatch.setattr(limit.sys, "platform", "darwin")
    with limit.memory(1):
        pass
    assert "no limit" in capsys.readouterr().out
