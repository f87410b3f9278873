"""What a pickle would do, told from its opcodes before any of them is followed.

torch's own unpickler runs no code of a stranger's. But it takes memory and time as it is told to,
and writes into its messages what it refuses: a few hundred bytes end it, or never end.
"""

import pickletools
from typing import IO, Any

import torch

# What a pickle of tensors may call. torch allows more, and some of that takes a few bytes for
# gigabytes: bytearray(n), FloatTensor(n), _codecs.encode(..., "hex") of itself again and again.
CALLABLE = {
    "collections OrderedDict",
    "collections Counter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "__builtin__ set",
    "__builtin__ complex",
    "builtins set",
    "builtins complex",
}
CALLING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# LeNet-5's pickle has 411 steps. One of a byte makes an object of 200; a hash of tuples that hold
# each other twice, 40 deep, never ends, and one of 400,000 within each other ends the interpreter.
MOST_OPCODES, MOST_WEIGHT = 100_000, 10_000
CALL, ITEM = 0, 1


def objection(file: IO[bytes]) -> str:
    """What speaks against a pickle that calls or takes more than tensors need; empty where none.

    Follows the opcodes with weights in place of objects: a tuple's is how many items a hash of it
    visits, one that it holds twice counting twice. Leaves the file at the end of a good pickle.

    Raises: ValueError, IndexError or KeyError where it is no pickle.
    """
    stack: list[int] = []
    below: list[list[int]] = []  # a mark puts the stack aside
    memo: dict[Any, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if found := _bad_name(opcode.name, argument):
            return found
        taken, takes = [], opcode.stack_before
        if pickletools.markobject in takes:
            taken, stack = stack, below.pop()
            takes = takes[: takes.index(pickletools.markobject)]
        if takes:
            taken = stack[-len(takes) :] + taken
            del stack[-len(takes) :]
        given = [ITEM] * len(opcode.stack_after)
        match opcode.name:
            case "MARK":
                below.append(stack)
                stack, given = [], []
            case "GLOBAL":
                given = [CALL]
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                given = [ITEM + sum(max(weight, ITEM) for weight in taken)]
            case "BINGET" | "LONG_BINGET":
                given = [memo[argument]]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "REDUCE" if taken[0] != CALL:
                # torch's refusal would write it out: 40 lists of two lists each have no end.
                return "expected tensors, found a pickle that calls no function"
        stack += given
        is_nested = max(taken, default=0) > ITEM
        if count > MOST_OPCODES or (is_nested and max(given, default=0) > MOST_WEIGHT):
            return (
                f"expected a pickle of at most {MOST_OPCODES:,} steps and tuples of tuples of "
                f"{MOST_WEIGHT:,} items, found a larger one"
            )
    return ""


def _bad_name(name: str, argument: Any) -> str:
    if name in CALLING or (name == "GLOBAL" and not _is_allowed(argument)):
        wants = str(argument or "code").replace(" ", ".")[:80]
        return (
            "expected dense tensors and plain values, found a pickle that wants to run "
            f"{wants}; nothing of it was executed"
        )
    # torch ends a member's name there, and reads the same one again for each such name.
    if isinstance(argument, str) and "\0" in argument:
        return "expected names as text, found a zero byte in one"
    return ""


def _is_allowed(wanted: str) -> bool:
    module, _, name = wanted.partition(" ")
    is_type = module == "torch" and (
        name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)
    )
    return wanted in CALLABLE or is_type
