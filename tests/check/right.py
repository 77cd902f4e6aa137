"""Trainers that are right under every trap, as a learner would write them in a %%ranks cell."""

BY_HAND = '''
from utils import model

class Trainer:
    """Data parallel by hand."""

    def __init__(self, config, seed, optimizer):
        self.config, self.model = config, model.GPT(config, seed)
        for p in self.model.parameters():
            dist.broadcast(p.data, 0)
        self.optimizer = model.optimizer(optimizer, self.model.parameters())

    def step(self, tokens, targets):
        self.model.zero_grad()
        total = (targets != -100).sum()
        mine, wanted = (t.tensor_split(world_size)[rank] for t in (tokens, targets))
        loss = model.loss(self.model(mine), wanted, reduction="sum") / total
        loss.backward()
        for p in self.model.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad)
        self.grads = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        return loss

    def parameters(self):
        return dict(self.model.named_parameters())

    def gradients(self):
        return self.grads
'''

DDP = '''
from torch.nn.parallel import DistributedDataParallel
from utils import model

class Trainer:
    """PyTorch's own data parallel; its mean over ranks is turned into a mean over targets."""

    def __init__(self, config, seed, optimizer):
        self.config, self.ddp = config, DistributedDataParallel(model.GPT(config, seed))
        self.optimizer = model.optimizer(optimizer, self.ddp.parameters())

    def step(self, tokens, targets):
        self.optimizer.zero_grad()
        total = (targets != -100).sum()
        mine, wanted = (t.tensor_split(world_size)[rank] for t in (tokens, targets))
        loss = model.loss(self.ddp(mine), wanted, reduction="sum") / total
        (loss * world_size).backward()
        self.grads = {n: p.grad.clone() for n, p in self.ddp.module.named_parameters() if p.grad is not None}
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.ddp.parameters(), self.config.clip)
        self.optimizer.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        return loss.item()

    def parameters(self):
        return dict(self.ddp.module.named_parameters())

    def gradients(self):
        return self.grads
'''

PIPELINE = '''
from utils import model

class Trainer:
    """The model cut in parts, one a rank; three micro-batches; the tied weight's two gradients meet."""

    def __init__(self, config, seed, optimizer):
        seeds = [seed]
        dist.broadcast_object_list(seeds, 0)
        self.config, self.first, self.last = config, rank == 0, rank == world_size - 1
        cuts = [i * config.layers // world_size for i in range(world_size + 1)]
        self.part = model.Part(config, range(cuts[rank], cuts[rank + 1]), self.first, self.last, seeds[0])
        self.optimizer = model.optimizer(optimizer, self.part.parameters())
        self.ends = dist.new_group([0, world_size - 1])

    def step(self, tokens, targets):
        self.optimizer.zero_grad()
        total, losses = (targets != -100).sum(), torch.zeros(())
        for mine, wanted in zip(tokens.tensor_split(3), targets.tensor_split(3)):
            losses += self.one(mine, wanted, total)
        self.tie()
        self.grads = {n: p.grad.clone() for n, p in self.part.named_parameters() if p.grad is not None}
        if self.config.clip is not None:
            self.clip()
        self.optimizer.step()
        return losses if self.last else None

    def one(self, tokens, targets, total):
        x = tokens
        if not self.first:
            x = torch.empty(len(tokens), tokens.shape[1], self.config.width)
            dist.recv(x, rank - 1)
            x.requires_grad_()
        y = self.part(x)
        if self.last:
            loss = model.loss(y, targets, reduction="sum") / total
            loss.backward()
        else:
            dist.send(y.detach(), rank + 1)
            gradient = torch.empty_like(y)
            dist.recv(gradient, rank + 1)
            y.backward(gradient)
            loss = torch.zeros(())
        if not self.first:
            dist.send(x.grad, rank - 1)
        return loss.detach()

    def tie(self):
        if self.config.tied and (self.first or self.last) and world_size > 1:
            weight = self.part.token.weight if self.first else self.part.output.weight
            dist.all_reduce(weight.grad, group=self.ends)

    def clip(self):
        squares = sum(p.grad.square().sum() for n, p in self.part.named_parameters()
                      if p.grad is not None and not (self.config.tied and self.last and n == "output.weight"))
        dist.all_reduce(squares)
        scale = (self.config.clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for p in self.part.parameters():
            if p.grad is not None:
                p.grad *= scale

    def parameters(self):
        return dict(self.part.named_parameters())

    def gradients(self):
        return self.grads
'''

SHARDED = '''
from utils import check, model

class Trainer:
    """The optimizer's work shared out: all parameters end to end, each rank updates its stretch (ZeRO, by hand)."""

    def __init__(self, config, seed, optimizer):
        self.config, self.model = config, model.GPT(config, seed)
        self.trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        for p in self.model.parameters():
            dist.broadcast(p.data, 0)
        count = sum(p.numel() for _, p in self.trained)
        self.size = -(-count // world_size)
        self.flat = torch.zeros(self.size * world_size)
        self.flat[:count] = torch.cat([p.data.flatten() for _, p in self.trained])
        self.mine = torch.nn.Parameter(self.flat[rank * self.size:(rank + 1) * self.size].clone())
        self.optimizer = model.optimizer(optimizer, [self.mine])

    def step(self, tokens, targets):
        self.model.zero_grad()
        total = (targets != -100).sum()
        mine, wanted = (t.tensor_split(world_size)[rank] for t in (tokens, targets))
        loss = model.loss(self.model(mine), wanted, reduction="sum") / total
        loss.backward()
        whole = torch.zeros_like(self.flat)
        whole[:sum(p.numel() for _, p in self.trained)] = torch.cat([p.grad.flatten() for _, p in self.trained])
        dist.all_reduce(whole)
        self.mine.grad = whole[rank * self.size:(rank + 1) * self.size].clone()
        self.grad = self.mine.grad.clone()
        if self.config.clip is not None:
            square = self.grad.square().sum()
            dist.all_reduce(square)
            self.mine.grad *= (self.config.clip / (square.sqrt() + 1e-6)).clamp(max=1.0)
        self.optimizer.step()
        dist.all_gather_single(self.flat, self.mine.data)
        start = 0
        for _, p in self.trained:
            p.data.copy_(self.flat[start:start + p.numel()].view_as(p))
            start += p.numel()
        loss = loss.detach()
        dist.all_reduce(loss)
        return loss

    def pieces(self, flat):
        found, start, low = {}, 0, rank * self.size
        for name, p in self.trained:
            a, b = max(start, low), min(start + p.numel(), low + self.size)
            if a < b:
                found[name] = check.Piece(flat[a - low:b - low], slice(a - start, b - start), flat=True)
            start += p.numel()
        return found

    def parameters(self):
        return dict(self.model.named_parameters()) | self.pieces(self.mine.data)

    def gradients(self):
        return self.pieces(self.grad)
'''

FSDP = '''
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from utils import model

class Trainer:
    """PyTorch's sharded data parallel (FSDP2): parameters and gradients are DTensors."""

    def __init__(self, config, seed, optimizer):
        self.config, self.model = config, model.GPT(config, seed)
        for p in self.model.parameters():
            dist.broadcast(p.data, 0)
        for block in self.model.blocks.values():
            fully_shard(block)
        fully_shard(self.model)
        self.optimizer = model.optimizer(optimizer, self.model.parameters())

    def step(self, tokens, targets):
        self.optimizer.zero_grad()
        total = (targets != -100).sum()
        mine, wanted = (t.tensor_split(world_size)[rank] for t in (tokens, targets))
        loss = model.loss(self.model(mine), wanted, reduction="sum") / total
        (loss * world_size).backward()
        self.grads = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        return loss

    def parameters(self):
        return dict(self.model.named_parameters())

    def gradients(self):
        return self.grads
'''
