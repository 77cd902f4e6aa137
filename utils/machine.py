"""Look at this machine: can it run the course? `machine.check()` says so in a line, or says what to do.

Nothing here loads torch or starts a process; it takes a fraction of a second.
"""

from __future__ import annotations

import html
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = (3, 11)
MEMORY = 2e9  # bytes that should be free: the largest lesson takes 1.5
DISK = 0.2e9  # bytes in the temporary folder and where progress is kept
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, how it is here, and what to do about it ("" if it is all right)."""

    what: str
    here: str
    cure: str = ""
    fatal: bool = True  # False: the course runs, but slowly, or without one thing


class Report:
    """What was found. Shows itself: one line if all is well, else what is wrong and what to do."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings

    @property
    def good(self) -> bool:
        """Tell whether nothing stands in the way of the course."""
        return not any(finding.cure and finding.fatal for finding in self.findings)

    def lines(self) -> list[str]:
        """Give the report as lines of text."""
        troubles = [f for f in self.findings if f.cure]
        facts = ", ".join(f"{f.what} {f.here}" for f in self.findings if not f.cure)
        if not troubles:
            return [f"All good: {facts}."]
        head = "The course runs here, with a limit:" if self.good else "Something is in the way:"
        return [head, *(f"- {f.what}: {f.here}. {f.cure}" for f in troubles), f"Good: {facts}."]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shown = "<br>".join(html.escape(line) for line in self.lines())
        return {"text/html": f"<p>{shown}</p>", "text/plain": repr(self)}


def check() -> Report:
    """Look at Python, torch, cores, memory, disk and the loopback interface. Never raises."""
    looks: list[Callable[[], Finding]] = [_python, _torch, _cores, _memory, _disk, _loopback]
    findings = []
    for look in looks:
        try:
            findings.append(look())
        except Exception as error:  # a look that fails must not hide the others
            name = look.__name__.strip("_")
            findings.append(Finding(name, f"could not be looked at ({type(error).__name__}: {error})",
                                    "The course may still run: go on, and come back if it does not.", fatal=False))
    return Report(findings)


def _python() -> Finding:
    here = platform.python_version()
    if sys.version_info < PYTHON:
        return Finding("Python", here, f"Install Python {PYTHON[0]}.{PYTHON[1]} or newer, and make the course again.")
    return Finding("Python", here)


def _torch() -> Finding:
    wanted = _pinned("torch")
    try:
        here = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding("torch", "missing", "Run `make course` in a terminal, or `pip install -r requirements.txt`.")
    if wanted and here.split("+")[0] != wanted:
        cure = f"The course is written for {wanted}: run `make course`, or `pip install -r requirements.txt`."
        return Finding("torch", here, cure, fatal=False)
    return Finding("torch", here)


def _pinned(package: str) -> str:
    """Read the version that requirements.txt asks for; "" if there is no such line."""
    try:
        lines = REQUIREMENTS.read_text("utf-8").splitlines()
    except OSError:
        return ""
    found = [line.partition("==")[2].split()[0] for line in lines if line.startswith(f"{package}==")]
    return found[0] if found else ""


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 2:
        return Finding("cores", "1", "Everything runs; four ranks share one core, so lessons take longer.", fatal=False)
    return Finding("cores", str(count))


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available
    limit = _container_limit()
    if limit is not None:
        free = min(free, limit)
    here = f"{free / 1e9:.1f} GB free"
    if free < MEMORY:
        return Finding("memory", here, "Close other programs and notebooks; a lesson takes up to 1.5 GB.", fatal=False)
    return Finding("memory", here)


def _container_limit() -> int | None:
    """Read what a container (Docker, Binder) has left; None where there is no limit. Linux, cgroup v2 and v1."""
    for folder, limit, used in (("", "memory.max", "memory.current"),
                                ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")):  # fmt: skip
        root = Path("/sys/fs/cgroup") / folder
        try:
            most, now = (root / limit).read_text().strip(), int((root / used).read_text())
        except (OSError, ValueError):
            continue
        if most.isdigit() and int(most) < 1 << 60:
            return int(most) - now
    return None


def _disk() -> Finding:
    with tempfile.TemporaryFile() as file:
        file.write(b"course")  # a full or read-only disk shows here
    free = shutil.disk_usage(tempfile.gettempdir()).free
    here = f"{free / 1e9:.1f} GB free"
    if free < DISK:
        return Finding("disk", here, "The temporary folder is almost full; make room there.")
    return Finding("disk", here)


def _loopback() -> Finding:
    """Send a few bytes from this process to itself, as ranks on one machine do."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(2)
            with socket.create_connection(server.getsockname(), timeout=2) as one:
                other, _ = server.accept()
                with other:
                    one.sendall(b"rank")
                    other.settimeout(2)
                    assert other.recv(4) == b"rank"
    except (OSError, AssertionError) as error:
        cure = "Ranks talk over 127.0.0.1: let Python use it in the firewall or VPN settings, then run this again."
        return Finding("loopback", f"blocked ({error})", cure)
    return Finding("loopback", "open")
