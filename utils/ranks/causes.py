"""The usual cause of each kind of failure, in the words the learner reads after \"Usual cause: \"."""

from __future__ import annotations

import re

LOST_PEER = re.compile(
    "closed by peer|Connection reset|Connection closed|Socket closed|Broken pipe|Connection refused|Software caused"
    "|failed to pass monitoredBarrier|never came to make the process group|nobody sends any more"
)
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|Cannot allocate memory|bad_alloc|out of memory", re.I)

CAUSES = {
    "raised": "something that only this rank has or does (its data, a branch on `rank`). The others only waited.",
    "raised everywhere": "the cell itself. All ranks run the same code, so all meet the same error.",
    "raised alone": "the cell itself. Only this rank ran it.",
    "syntax": "a bracket, colon or quotation mark that is missing, here or in the line above. No rank ran any of it.",
    "memory": "a tensor, or the sum of all that are kept, larger than the memory this rank may use. What a variable "
    "holds counts until the variable is deleted (`del name`).",
    "mismatch": "a collective inside `if rank == ...`, or in a loop that takes more turns on some ranks. In a group "
    "every rank must make the same calls in the same order.",
    "roots": "a root (`src`, `dst`) that depends on `rank`. All ranks must name the same one.",
    "tensors": "shards of unequal size, or a tensor of another type on one rank. In one collective the tensors of all "
    "ranks must agree in shape and type: print `x.shape, x.dtype` before the call.",
    "message": "a receive into a tensor made for something else. It must have the type and the number of elements of "
    "the tensor sent.",
    "groups": "`dist.new_group` inside `if rank == ...`. All ranks must call it for every group, members or not, in "
    "the same order.",
    "skipped": "a collective inside `if rank == ...`, or in a loop that takes fewer turns on one rank. Every rank of a "
    "group must make every call of the group.",
    "absent": "a collective in a cell that runs on some ranks only. Every rank of a group must make every call of the "
    "group: use a group of these ranks (`dist.new_group`), or run the cell on all.",
    "order": "each waits for another to act first. Of two ranks that exchange messages one must send while the other "
    "receives; or all post their receives first (`irecv`) and wait for them after sending.",
    "order of calls": "each waits for another to act first. Ranks must make the calls they share in the same order, "
    "also those of different groups.",
    "unmatched": "a send without its recv, or a wrong rank in one of the two. Both must be made before the cell ends.",
    "tags": "different tags. A `recv` takes only messages with its own tag.",
    "left behind": "an asynchronous call inside `if rank == ...`. It must be made by every rank of its group, like any "
    "other call.",
    "died": "the system killed the process because memory ran out, somebody else did, or native code crashed. The "
    "others cannot go on without it.",
    "exit": "`os._exit` in the cell, or native code that ended the process.",
    "pickle": "an object that only makes sense in its own process. Ask for the values you want to see of it: numbers, "
    "strings, tensors, lists and dictionaries of them.",
    "broken": "a connection that was closed in the cell, or a process group that was destroyed there.",
}
BY_ERROR = {
    "NameError": "a name that no %%ranks cell has made on this rank. The notebook's own variables live in another "
    "process: `ranks.scatter` brings them over.",
    "ModuleNotFoundError": "a package that is not installed for the Python that runs the ranks.",
    "SystemExit": "a script's `exit()`. A rank lives on after the cell; `ranks.stop()` in the notebook ends it.",
}
