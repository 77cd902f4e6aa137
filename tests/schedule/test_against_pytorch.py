"""Where PyTorch claims the same schedule, its ranks do the same actions in the same order."""

import pytest
from torch.distributed.pipelining import schedules as torch_schedules

from utils import schedule


def pytorch_rows(kind: str, ranks: int, stages: int, micro_batches: int) -> list[list[str]]:
    """Ask PyTorch's rule for each rank's list; drop empty slots, and write overlapped pairs one after the other."""
    found = object.__new__(getattr(torch_schedules, kind))
    found.pp_group_size, found.num_stages, found._n_microbatches = ranks, stages, micro_batches
    found.n_local_stages = stages // ranks
    found.microbatches_per_round = micro_batches // max(1, micro_batches // ranks)
    rows = []
    for rank in range(ranks):
        actions = [a for a in found._calculate_single_rank_operations(rank) if a is not None]
        pairs = [sub for a in actions for sub in (a.sub_actions or (a,))]
        rows.append([f"{a.stage_index}{a.computation_type.value}{a.microbatch_index}" for a in pairs])
    return rows


CASES = [
    ("interleaved-1f1b", "ScheduleInterleaved1F1B"),
    ("zb-v", "ScheduleZBVZeroBubble"),
    ("dualpipe-v", "ScheduleDualPipeV"),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 4), (2, 4), (2, 8), (3, 6), (4, 8), (5, 15), (8, 24)])
def test_same_order(name: str, kind: str, ranks: int, micro_batches: int) -> None:
    ours = schedule.build(name, 2 * ranks, micro_batches)
    assert [list(map(str, row)) for row in ours.ranks] == pytorch_rows(kind, ranks, 2 * ranks, micro_batches)
