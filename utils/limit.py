"""Give this process a memory of its own size, as a device has, and hold it to it.

On Linux the limit is the operating system's (RLIMIT_DATA: private writable memory), so what does not fit really fails:
torch raises RuntimeError, Python MemoryError, and both leave the process alive. Elsewhere no such limit is enforced.
"""
import contextlib
import ctypes
import functools
import gc
import sys
import traceback
from collections.abc import Iterator


@contextlib.contextmanager
def memory(megabytes: float) -> Iterator[None]:
    """Allow this process `megabytes` (of 10**6 bytes) of models and data beyond what it holds now; then lift the limit.

    Where the platform has no such limit, a line says so and the block runs without one.
    """
    if sys.platform != "linux":
        print("This platform sets no limit on a process's memory: what would fail on Linux fits here.")
        yield
        return
    import resource

    _warm_up()
    gc.collect()  # a model that nobody uses any more is not in the way
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _held() + int(megabytes * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error must not keep the model alive with it
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@functools.cache
def _warm_up() -> None:
    """Take one small step, so that what torch loads and allots once does not count as the model's."""
    import torch

    with contextlib.suppress(AttributeError, OSError):
        # M_MMAP_THRESHOLD: what is larger goes back to the system when it is freed, so that it can be counted
        ctypes.CDLL(None).mallopt(-3, 256 * 1024)
    # oneDNN keeps a kernel that it once failed to build, for want of memory, as failed for the rest of the process
    torch.backends.mkldnn.set_flags(False)
    layer = torch.nn.Sequential(torch.nn.Embedding(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8), torch.nn.GELU())
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.tensor([1, 2])).sum().backward()
    optimizer.step()


def _held() -> int:
    """Return the bytes that count against the limit (private writable memory), without what the C library holds free.

    What was freed is used again before the system is asked for more: it is room, although the system counts it.
    """
    free = 0
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        library.mallinfo2.restype = _Mallinfo
        free = library.mallinfo2().fordblks
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmData"))
    return 1024 * int(line.split()[1]) - free


class _Mallinfo(ctypes.Structure):
    """What glibc (2.33 and later) says of its heap; `fordblks` are the free bytes in it."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    ]
