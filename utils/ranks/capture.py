"""What a cell prints and shows on one rank, kept in order.

Text goes to a file as well, so that the kernel still has it when the rank is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

HEAD_CHARACTERS, TAIL_CHARACTERS = 8_000, 4_000  # of one cell on one rank; what is between is cut
SHOWN, SHOWN_BYTES = 50, 20_000_000


class Output:
    """Pieces in order: text, and bundles of what was shown. Memory is bounded whatever a cell prints."""

    def __init__(self, path: str | None):
        self.pieces: list[str | tuple[dict[str, Any], dict[str, Any]]] = []
        self.head = self.total = self.lines = self.shown = self.bytes = 0
        self.tail = ""
        self.file: Any = None
        if path:
            with contextlib.suppress(OSError):  # a full disk: the text still comes with the reply
                self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def write(self, text: str) -> None:
        """Take text."""
        self.total += len(text)
        self.lines += text.count("\n")
        if taken := text[: max(0, HEAD_CHARACTERS - self.head)]:
            self.head += len(taken)
            if self.pieces and isinstance(self.pieces[-1], str) and len(self.pieces[-1]) < 500:
                self.pieces[-1] += taken
            else:
                self.pieces.append(taken)
            if self.file is not None:
                with contextlib.suppress(OSError):
                    os.write(self.file, taken.encode(errors="replace"))
        if rest := text[len(taken) :]:
            self.tail += rest[-TAIL_CHARACTERS:]
            if len(self.tail) > 50 * TAIL_CHARACTERS:  # cut now and then, not at every piece
                self.tail = self.tail[-TAIL_CHARACTERS:]

    def show(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Take something rich, or the text of a value."""
        if set(data) == {"text/plain"}:
            self.write(data["text/plain"] + "\n")
            return
        self.shown += 1
        self.bytes += sum(len(v) for v in data.values() if isinstance(v, (str, bytes)))
        if self.shown <= SHOWN and self.bytes <= SHOWN_BYTES:
            self.pieces.append((data, metadata))

    def close(self) -> list[Any]:
        """Return the pieces, with a note where something was cut."""
        if self.file is not None:
            os.close(self.file)
            self.file = None
        self.tail = self.tail[-TAIL_CHARACTERS:]
        if self.tail:
            cut = self.total - self.head - len(self.tail)
            note = f"\n... {cut:,} characters cut here, of {self.total:,} in {self.lines:,} lines ...\n" if cut else ""
            self.pieces.append(note + self.tail)
        # A line written over and over (a progress bar) is kept as it stood last.
        self.pieces = [re.sub(r"[^\n]*\r(?!\n)", "", p) if isinstance(p, str) else p for p in self.pieces]
        if self.shown > SHOWN or self.bytes > SHOWN_BYTES:
            self.pieces.append(f"... of {self.shown} things shown, those that were too many or too big are left out\n")
        return self.pieces


class _Stream(io.TextIOBase):
    """sys.stdout and sys.stderr of a cell."""

    encoding = "utf-8"

    def __init__(self, output: Output):
        self.output = output

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.output.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False


class _Publisher:
    """Stands in for IPython's display publisher."""

    is_publishing = False

    def __init__(self, output: Output):
        self.output = output

    def publish(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, **_: Any) -> None:
        self.output.show(data, metadata or {})

    def clear_output(self, wait: bool = False) -> None:
        self.output.pieces.clear()


def clean(text: str) -> str:
    """Return a message without what differs from run to run: addresses, ports, places in a temporary folder."""
    text = re.sub(r"\[/[^\]\s]*/(?:gloo|c10|aten|torch)/[^\]]*\]\s*", "", text)
    text = re.sub(r"\[enforce fail at [^\]]*\](?:\s*err == 0\.)?\s*", "", text)
    text = re.sub(r"\s*(?:from |to )?\[[0-9a-fA-F.:]+\]:\d+", "", text)
    text = re.sub(r" at 0x[0-9a-fA-F]+|0x[0-9a-fA-F]{6,}", "", text)
    text = re.sub(r"(?:/[^\s:'\"]*)?/site-packages/", "", text)
    return re.sub(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py", "the cell", text)


@contextlib.contextmanager
def _native(output: Output, path: str | None) -> Iterator[None]:
    """Catch what native code and child processes print (file descriptor 1), and add it at the end.

    Descriptor 2 is left to the log: gloo writes there, when and in what order it likes.
    """
    try:
        file = os.open(f"{path}-native", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) if path else None
    except OSError:
        file = None
    if file is None:
        yield
        return
    log = os.dup(1)
    os.dup2(file, 1)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            ctypes.CDLL(None).fflush(None)
        os.dup2(log, 1)
        if size := os.fstat(file).st_size:
            output.write(os.pread(file, HEAD_CHARACTERS + TAIL_CHARACTERS, 0).decode(errors="replace"))
            if size > HEAD_CHARACTERS + TAIL_CHARACTERS:
                output.write(f"\n... cut here, of {size:,} bytes ...\n")
        os.close(file)
        os.close(log)


@contextlib.contextmanager
def captured(shell: Any, source: str, path: str | None) -> Iterator[Output]:
    """Catch all that Python prints and shows meanwhile; warnings come without places that differ by machine."""
    output = Output(path)
    stream = _Stream(output)

    def hook(value: Any) -> None:
        """Take the value of the last expression."""
        if value is None or shell.displayhook.semicolon_at_end_of_expression(source):
            return
        shell.user_ns["_"] = value
        data, metadata = shell.display_formatter.format(value)
        if "text/plain" in data:  # an address says nothing, and differs on every rank
            data["text/plain"] = re.sub(r" at 0x[0-9a-fA-F]{6,}", "", data["text/plain"])
        output.show(data, metadata)

    def warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        output.write(f"{category.__name__}: {clean(str(message))}\n")

    before = sys.stdout, sys.stderr, shell.display_pub, warnings.showwarning
    with _native(output, path), shell.display_trap:
        was = sys.displayhook
        sys.stdout, sys.stderr, shell.display_pub = stream, stream, _Publisher(output)
        warnings.showwarning = warn
        sys.displayhook = hook
        try:
            yield output
        finally:
            sys.displayhook = was
            sys.stdout, sys.stderr, shell.display_pub, warnings.showwarning = before
