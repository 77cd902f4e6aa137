"""Give this process a memory of its own size, as a device has, and hold it to it.

On Linux the limit is the operating system's (RLIMIT_DATA: private writable memory), so what does not fit really fails:
torch raises RuntimeError, Python MemoryError, and both leave the process alive. Elsewhere no such limit is enforced.
"""
import contextlib
import gc
import sys
import traceback
from collections.abc import Iterator
from types import SimpleNamespace

_state = SimpleNamespace(before=None)


@contextlib.contextmanager
def memory(megabytes: float) -> Iterator[None]:
    """Allow this process `megabytes` (of 10**6 bytes) for models and data, beyond what it needed to get started.

    The starting point is measured once per process, on first use, so a limit means the same each time. The limit ends
    with the block. Where the platform has no such limit, a line says so and the block runs without one.
    """
    if sys.platform != "linux":
        print("This platform sets no limit on a process's memory: what would fail on Linux fits here.")
        yield
        return
    import resource

    if _state.before is None:
        _warm_up()
        _state.before = _data()
    gc.collect()  # a model that nobody uses any more is not in the way
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = _state.before + int(megabytes * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error must not keep the model alive with it
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _warm_up() -> None:
    """Take one small step, so that what torch loads and allots once does not count as the model's."""
    import torch

    # oneDNN keeps a kernel that it once failed to build, for want of memory, as failed for the rest of the process
    torch.backends.mkldnn.set_flags(False)
    layer = torch.nn.Sequential(torch.nn.Embedding(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8), torch.nn.GELU())
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.tensor([1, 2])).sum().backward()
    optimizer.step()


def _data() -> int:
    """Return the bytes that count against the limit: private writable memory of this process."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmData"))
    return 1024 * int(line.split()[1])
