"""Correct programs run undisturbed, whatever one rank does while the others wait."""

import pytest

from utils import ranks

PROGRAMS = {
    "DDP": """
        from torch.nn.parallel import DistributedDataParallel as DDP
        torch.manual_seed(0)
        model = DDP(torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64)))
        optimizer = torch.optim.AdamW(model.parameters())
        for i in range(30):
            optimizer.zero_grad()
            model(torch.randn(8, 64)).square().mean().backward()
            optimizer.step()
        """,
    "DDP with a straggler": """
        import time
        from torch.nn.parallel import DistributedDataParallel as DDP
        model = DDP(torch.nn.Linear(64, 64))
        for i in range(3):
            if rank == 1 and i == 1:
                time.sleep(4)
            model(torch.randn(8, 64)).sum().backward()
        """,
    "FSDP2": """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (4,))
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        for i in range(5):
            model(torch.randn(4, 64)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        """,
    "DeviceMesh and DTensor": """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        d = distribute_tensor(torch.arange(16.0).reshape(4, 4), mesh, [Shard(0), Shard(1)])
        assert (d @ d).full_tensor().sum().item() == 3920
        dist.barrier(group=mesh["data"].get_group())
        """,
    "subgroups": """
        even, odd = dist.new_group([0, 2]), dist.new_group([1, 3])
        x = torch.ones(5) * rank
        dist.all_reduce(x, group=even if rank % 2 == 0 else odd)
        if rank in (0, 2):  # more calls of one group than of the other
            dist.all_reduce(torch.ones(2), group=even)
        current, groups = dist.new_subgroups(2)
        dist.barrier(group=current)
        if rank < 2:
            dist.barrier(group=dist.new_group([0, 1], use_local_synchronization=True))
        dist.barrier()
        """,
    "asynchronous work": """
        import time
        xs = [torch.ones(100_000) for _ in range(10)]
        works = [dist.all_reduce(x, async_op=True) for x in xs]
        if rank == 2:
            time.sleep(3)
        for work in works:
            work.wait()
        later = dist.all_reduce(xs[0], async_op=True)
        """,
    "messages, then collectives": """
        import time
        x = torch.ones(4) * rank
        for i in range(5):
            if rank == 0:
                dist.send(x, 1)
            elif rank == 1:
                dist.recv(x, 0)
        dist.all_reduce(x)
        right, left = (rank + 1) % 4, (rank - 1) % 4
        ops = [dist.P2POp(dist.isend, x.clone(), right), dist.P2POp(dist.irecv, x, left)]
        for request in dist.batch_isend_irecv(ops):
            request.wait()
        b = torch.zeros(1)
        if rank == 0:
            assert sorted(dist.recv(b) for _ in range(3)) == [1, 2, 3]  # from whoever sends
            dist.send(b, 1)
        else:
            time.sleep(rank / 4)
            dist.send(b, 0)
            if rank == 1:
                dist.recv(b, 0)
        dist.barrier()
        """,
    "objects and uneven parts": """
        everyone = [None] * 4
        dist.all_gather_object(everyone, {"rank": rank, "text": "x" * rank})
        assert [e["rank"] for e in everyone] == [0, 1, 2, 3]
        got = [None]
        dist.scatter_object_list(got, [1, "2", [3], 4] if rank == 0 else None, 0)
        y = torch.zeros(2)
        dist.scatter(y, [torch.ones(2) * i for i in range(4)] if rank == 1 else None, src=1)
        dist.gather(y, [torch.zeros(2) for _ in range(4)] if rank == 3 else None, dst=3)
        dist.reduce(y, 2)
        part, whole = torch.zeros(2), torch.zeros(8)
        dist.reduce_scatter_single(part, torch.ones(8))
        dist.all_gather_single(whole, part)
        out = torch.zeros(4 * (rank + 1))
        dist.all_to_all_single(out, torch.ones(10), [rank + 1] * 4, [1, 2, 3, 4])
        dist.monitored_barrier()
        with torch.inference_mode():
            dist.all_reduce(torch.ones(3))
        with dist._coalescing_manager(async_ops=True) as manager:
            dist.all_reduce(torch.ones(3))
            dist.all_reduce(torch.ones(4))
        manager.wait()
        """,
    "pipelining": """
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B
        stage = PipelineStage(torch.nn.Linear(16, 16), rank, 4, device)
        schedule = Schedule1F1B(stage, n_microbatches=8, loss_fn=lambda out, target: (out - target).square().mean())
        for i in range(3):
            if rank == 0:
                schedule.step(torch.randn(32, 16))
            elif rank == 3:
                schedule.step(target=torch.zeros(32, 16), losses=[])
            else:
                schedule.step()
        dist.all_reduce(torch.ones(3))
        """,
    "sleeping, computing, reading for 10 s": """
        import os, threading, time
        end = time.time() + 10
        if rank == 1:
            time.sleep(10)
        if rank == 2:
            q = torch.ones(300, 300)
            while time.time() < end:
                q = torch.tanh(q @ q)
        if rank == 3:
            read, write = os.pipe()
            threading.Timer(10, lambda: os.write(write, b"x")).start()
            os.read(read, 1)
        dist.all_reduce(torch.ones(3))
        """,
    "a rank that answers no questions": """
        if rank == 1:
            sum(range(100_000_000))  # C code that keeps the interpreter to itself
        dist.barrier()
        """,
    "a late group": """
        import time
        if rank == 1:
            time.sleep(3)
        group = dist.new_group([0, 1, 2])
        """,
    "functional collectives": """
        import time
        import torch.distributed._functional_collectives as functional
        if rank == 1:
            time.sleep(2)
        assert functional.all_reduce(torch.ones(3), "sum", dist.group.WORLD).tolist() == [4, 4, 4]
        """,
    "a large tensor": """
        x = torch.ones(50_000_000)
        dist.all_reduce(x)
        del x
        """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_undisturbed(world, name, capsys):
    before = ranks.gather("id(dist.group.WORLD)")
    lines = PROGRAMS[name].strip("\n").splitlines()
    ranks.run("\n".join(line[8:] for line in lines))
    assert capsys.readouterr().out == ""
    assert ranks.gather("id(dist.group.WORLD)") == before  # the group was not made anew


def test_work_of_an_earlier_cell(world):
    ranks.run("x = torch.ones(3)\nwork = dist.all_reduce(x, async_op=True)")
    ranks.run("work.wait()")
    assert [x.tolist() for x in ranks.gather("x")] == [[4, 4, 4]] * 4


def test_a_message_over_two_cells_of_some_ranks(world):
    ranks.run("x = torch.arange(3.0)\nrequest = dist.isend(x, 2)", on=0)
    ranks.run("y = torch.zeros(3)\ndist.recv(y, 0)", on=2)
    assert ranks.call(_value, "y", on=2)[0].tolist() == [0, 1, 2]


def test_a_group_of_some_ranks(world):
    ranks.run("group = dist.new_group([0, 2])")
    ranks.run("x = torch.ones(2)\ndist.all_reduce(x, group=group)", on=[0, 2])
    ranks.run("dist.barrier()")


def _value(name):
    from utils.ranks import engine

    return engine.namespace()[name]
