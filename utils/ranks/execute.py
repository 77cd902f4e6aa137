"""How a rank runs what the kernel sends: cells, expressions, values, functions."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import importlib
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from utils.ranks import capture, trace
from utils.ranks.engine import Reply, me, namespace


def run_cell(source: str, cell: int, spool: str | None) -> Reply:
    """Run cell number `cell`; what it prints, shows and raises comes back as one dictionary.

    `spool` is a file that gets the text as it is printed, for the case that this process does not live to reply.
    """
    from IPython import get_ipython

    shell = get_ipython()
    trace.know(shell.compile.get_code_name(source, source, 0), cell)

    def work() -> Reply:
        error: BaseException | None
        with capture.captured(shell, source, spool) as output, _manners(shell):
            result = None
            try:
                with trace.Interruptible():
                    result = shell.run_cell(source, store_history=False)
                error = result.error_before_exec or result.error_in_exec
            except KeyboardInterrupt as e:
                error = e
            early = bool(result and result.error_before_exec)
        reply: Reply = {"status": "ok", "output": output.close()}
        if error is not None:
            reply.update(_error(error, early))
        return reply

    return _reported(work, cell)


def evaluate(expression: str, cell: int) -> Reply:
    """Return the value of an expression, pickled here so that what cannot be pickled is an answer."""
    file = f"<gather {cell}>"
    trace.know(file, cell)

    def work() -> Reply:
        try:
            code = compile(expression, file, "eval")
        except (SyntaxError, ValueError) as e:
            return _error(e, early=True)
        return _pickled(lambda: eval(code, namespace()))

    return _reported(work, cell)


def assign(name: str, value: bytes, cell: int) -> Reply:
    """Set a variable of the learner."""
    return _reported(lambda: _pickled(lambda: namespace().update({name: pickle.loads(value)})), cell)


def call(module: str, function: str, args: bytes, cell: int) -> Reply:
    """Call an importable function."""

    def work() -> Any:
        target: Any = importlib.import_module(module)
        for part in function.split("."):
            target = getattr(target, part)
        return target(*pickle.loads(args))

    return _reported(lambda: _pickled(work), cell)


def _pickled(work: Callable[[], Any]) -> Reply:
    try:
        with trace.Interruptible():
            value = work()
    except BaseException as e:
        return _error(e)
    try:
        return {"status": "ok", "value": pickle.dumps(value)}
    except Exception as e:
        return {**_error(e), "frames": [], "pickle": True}


def _reported(work: Callable[[], Reply], cell: int) -> Reply:
    """Do the work of a cell and add what the watcher needs to know."""
    import torch.distributed as dist

    from utils.ranks import calls

    me.cell = calls.now.cell = cell
    me.table.mark(cell, 0)
    book = calls.now.book
    try:
        reply = work()
    except MemoryError as e:  # in our own code, while a limit of the learner's is in force
        reply = _error(e)
    finally:
        me.cell = calls.now.cell = 0
    if reply["status"] != "ok":
        gc.collect()
    if book:
        book.prune()
        reply["book"] = book.report(cell)
        for key in ("mismatch", "failed"):
            at = getattr(book, key)
            reply[key] = at.plain() if at else None
            setattr(book, key, None)
    reply.update(freed=me.freed, was=me.was, group=dist.is_initialized())
    return reply


def _error(error: BaseException, early: bool = False) -> Reply:
    """Return an error as simple values, and let go of its frames: they may hold the tensors memory ran out over."""
    frames, place = trace.of_traceback(error.__traceback__)
    reply: Reply = {"status": "raised", "name": type(error).__name__, "frames": frames, "place": place, "early": early}
    try:
        reply["message"] = "\n".join([str(error)[:4000], *getattr(error, "__notes__", [])])
    except Exception:
        reply["message"] = "(an error whose message cannot be shown)"
    if isinstance(error, SyntaxError) and early:
        reply.update(message=error.msg, syntax=(error.lineno, error.offset, error.text))
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__context__
    sys.last_value = sys.last_traceback = sys.last_type = None
    return reply


@contextlib.contextmanager
def _manners(shell: Any) -> Iterator[None]:
    """Keep from a cell what a rank must not do: ask at the keyboard, end the engine's loop, print tracebacks."""

    def no_input(*_: object, **__: object) -> str:
        raise RuntimeError("A rank cannot read from the keyboard: ask in a cell of the notebook, then ranks.scatter.")

    def leave(code: object = None) -> None:
        raise SystemExit(code)

    quiet = ("showtraceback", "showsyntaxerror", "showindentationerror")
    before = builtins.input
    builtins.input = no_input
    shell.user_ns.update(exit=leave, quit=leave)
    for name in quiet:
        setattr(shell, name, _silent)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="To exit: use 'exit'")
            yield
    finally:
        builtins.input = before
        for name in quiet:
            delattr(shell, name)


def _silent(*_: object, **__: object) -> None:
    """Show nothing: the kernel explains."""


_loop: asyncio.AbstractEventLoop | None = None


def run_async(coroutine: Any) -> Any:
    """Run a cell with `await` to its end, although the engine's own event loop runs in this thread."""
    global _loop
    _loop = _loop or asyncio.new_event_loop()
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return _loop.run_until_complete(coroutine)
    finally:
        asyncio._set_running_loop(outer)
