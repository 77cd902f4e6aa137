"""The mistakes behind wrong answers to the exercises on sharded data parallelism, each in words for the learner."""
from __future__ import annotations

HINTS = {
    # flat_shards
    "not a pair": "Return two things: the list of shards, and the function `join`.",
    "number of shards": "There must be one shard for each rank. `torch.chunk` gives fewer pieces, or unequal ones, "
                        "when the row does not divide: pad the row first.",
    "unequal": "The shards are not equally long. A gather wants the same length from every rank: pad the row until the "
               "ranks divide it.",
    "lost": "Numbers are lost: what does not divide must be kept, and padding added to it.",
    "longer": "The shards are longer than they need be. A row that divides needs no padding, another less than one "
              "element a rank.",
    "each tensor": "Every tensor is padded by itself. Lay them end to end first, and pad the row once.",
    "dealt": "The numbers are dealt out like cards. A shard is a stretch of the row: rank 0 has its beginning.",
    "front": "The padding does not stand at the end of the row.",
    "zeros": "The padding must be zeros: it is added up, stepped and counted in norms like everything else.",
    "shapes": "`join` returns the right numbers in the wrong shapes.",
    "remembers": "`join` does not read the shards that it is handed: it returns what you had when you cut. Shards "
                 "change between the two.",
    "joined": "`join` puts the numbers in the wrong places.",
    "order": "The row begins with the first tensor, in its own order, then the second.",
    # zero_1_step
    "summed": "The step is too long by the number of ranks: a reduce-scatter adds up, and the gradient is the mean.",
    "divided twice": "The step is too short by the number of ranks: the gradient is divided by it twice.",
    "four": "This is right only on 4 ranks: ask `dist.get_world_size()`.",
    "own gradient": "Each rank steps with its own gradient. The shard that it updates needs the gradients of all "
                    "ranks: reduce-scatter them.",
    "not gathered": "Each rank has updated its own shard and nobody has told the others. After the step all shards "
                    "must be gathered.",
    "not in place": "`row` is as it was. Write into it (`row.copy_(...)`, `mine -= ...`); another tensor of the same "
                    "name is not the model.",
    "forgets": "The first step is right, the next ones are not: the momentum is lost between the steps. Keep it in "
               "`state`.",
    "other shard": "A rank updates a part of the row with the gradient of another part. Rank r keeps the r-th part, of "
                   "both.",
    "whole states": "The result is right, but every rank keeps the momentum of the whole row. Keep that of your shard.",
    "more states": "The result is right, but `state` holds more than the momentum of your shard. Keep that and nothing "
                   "else: `row.chunk(n)[rank]` can be made anew in each step.",
    "no states": "The result is right, but `state` holds no tensor: the momentum of your shard belongs there.",
    "all-reduced": "The result is right, but gradients are all-reduced: that is a reduce-scatter and an all-gather, "
                   "and with the gather of parameters a third pass. A reduce-scatter brings a rank all that it needs.",
    "too much": "The result is right, but more is sent than needed: one reduce-scatter of the gradient and one all- "
                "gather of the updated shards.",
    "step": "After the step the row is not that of one worker.",
    "step deadlock": "Not all ranks make the same calls. Every rank updates a shard, so every rank must reduce and "
                     "gather.",
    # run_sharded
    "kept": "After the run parameters of a block are still there: make them empty again (`p.data = torch.empty(0)`) "
            "once the block has computed.",
    "several": "The parameters of several blocks are there at once. Gather a block when it is about to compute, not "
               "before.",
    "ahead": "Rows of blocks to come are gathered and wait: they take the memory that freeing saves. Gather a block's "
             "row when it is about to compute, not before.",
    "mixed": "The output is wrong, and it would be right if ranks had handed in shards of the same block: all ranks "
             "must gather the blocks in the same order.",
    "places": "The output is wrong: numbers of the gathered row have got to the wrong places. The tensors lie end to "
              "end, without gaps, and padding comes last.",
    "own shard": "Nothing is gathered: a rank's own shard is not enough for a whole block.",
    "changed": "Your function changes the shards. They are the only copy of the parameters: read them only.",
    "reduced rows": "The output is right, but shards are put together by adding up rows full of zeros. An all-gather "
                    "sends each shard once; this sends twice as much.",
    "through one": "The output is right, but all goes through one rank, which sends everything to everybody. An all- "
                   "gather has no such middle.",
    "twice": "The output is right, but blocks are gathered more than once in one pass.",
    "run deadlock": "Not all ranks make the same gathers. A rank without sequences computes nothing, but the others "
                    "need its shards.",
    # global_norm
    "local norm": "No rank asks the others: this is the norm of one rank's shards. Squares must be added up over "
                  "ranks.",
    "norms added": "Norms do not add up, their squares do: send the sum of squares, and take the root at the end.",
    "replicas": "The replicated gradients are on every rank, and you count them once for each. Add theirs after the "
                "sum over ranks, or on one rank only.",
    "no replicas": "The replicated gradients are missing from the norm.",
    "mean": "You divide by the number of ranks. Shards are parts of one gradient, so their squares add up.",
    "largest": "You take the greatest norm of all ranks. The whole is longer than any of its parts.",
    "no root": "This is the square of the norm.",
    "norm": "The number is not the norm of the whole gradient.",
    "gathers": "The result is right, but whole gradients are sent. One number a rank is enough.",
    "a message each": "The result is right, but it takes a message for each tensor. Add up first, send one number.",
    "norm deadlock": "Not all ranks make the same calls: ranks hold different numbers of shards, some none. Make one "
                     "call on every rank, whatever it holds.",
    "ranks differ": "The ranks return different numbers.",
}  # fmt: skip
