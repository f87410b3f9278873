"""What a pickle would do, told from its opcodes before any of them is followed.

torch's own unpickler runs no code of a stranger's. But it takes memory and time as it is told to,
and writes into its messages what it refuses: a few hundred bytes end it, or never end.
"""

import pickletools
from typing import IO, Any, Literal, NamedTuple

import torch

# What a pickle of tensors may call. torch allows more, and some of that takes a few bytes for
# gigabytes: bytearray(n), FloatTensor(n), _codecs.encode(..., "hex") of itself again and again, or
# set(t) of one number that claims to be a row of 10**9.
REBUILDING = {
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
CALLING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# LeNet-5's pickle has 411 steps. One of a byte makes an object of 200; a hash of tuples that hold
# each other twice, 40 deep, never ends, and one of 400,000 within each other ends the interpreter.
MOST_OPCODES, MOST_WEIGHT = 100_000, 10_000


class Value(NamedTuple):
    """What stands for an object: `made` is a storage, a tensor, or a tuple with one in it."""

    kind: Literal["plain", "empty tuple", "tuple", "dict", "made", "OrderedDict", "rebuild"]
    weight: int = 1  # of a tuple: how many items a hash of it visits, one held twice counting twice


PLAIN = Value("plain")
CALLABLE = {"collections OrderedDict": Value("OrderedDict")}
CALLABLE |= dict.fromkeys(REBUILDING, Value("rebuild"))


def objection(file: IO[bytes]) -> str:
    """What speaks against a pickle that calls or takes more than tensors need; empty where none.

    Follows the opcodes as the unpickler will. Leaves the file at the end of a good pickle.

    Raises: ValueError, IndexError or KeyError where it is no pickle.
    """
    stack: list[Value] = []
    below: list[list[Value]] = []  # a mark puts the stack aside
    memo: dict[Any, Value] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        taken, takes = [], opcode.stack_before
        if pickletools.markobject in takes:
            taken, stack = stack, below.pop()
            takes = takes[: takes.index(pickletools.markobject)]
        if takes:
            taken = stack[-len(takes) :] + taken
            del stack[-len(takes) :]
        found = _bad_name(opcode.name, argument) or _bad_use(opcode.name, taken)
        given = [PLAIN] * len(opcode.stack_after)
        match opcode.name:
            case "MARK":
                below.append(stack)
                stack, given = [], []
            case "GLOBAL":
                given = [CALLABLE.get(str(argument), PLAIN)]
            case "EMPTY_TUPLE":
                given = [Value("empty tuple")]
            case "EMPTY_DICT":
                given = [Value("dict")]
            case "SETITEM" | "SETITEMS":
                given = taken[:1]
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                is_made = any(value.kind == "made" for value in taken)
                weight = 1 + sum(value.weight for value in taken)
                given = [Value("made" if is_made else "tuple", weight)]
                if weight > MOST_WEIGHT and any(value.weight > 1 for value in taken):
                    found = (
                        f"expected tuples in tuples of at most {MOST_WEIGHT:,} items, found more"
                    )
            case "REDUCE" | "BINPERSID":
                given = [Value("made")]
            case "BINGET" | "LONG_BINGET":
                given = [memo[argument]]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
        if count > MOST_OPCODES:
            found = f"expected a pickle of at most {MOST_OPCODES:,} steps, found a longer one"
        if found:
            return found
        stack += given
    return ""


def _bad_use(name: str, taken: list[Value]) -> str:
    """Of tensors that may claim to be rows of 10**9, and of lists with as many paths in them."""
    kinds = [value.kind for value in taken]
    # torch's refusal would write it out: 40 lists of two lists each have no end.
    if name == "REDUCE" and kinds[0] != "rebuild" and kinds != ["OrderedDict", "empty tuple"]:
        return "expected tensors, found a pickle that calls something else"
    if name == "BUILD" and kinds[1:] != ["dict"]:
        return "expected tensors, found a pickle that sets more than attributes"
    # The size of a storage is multiplied, a tensor there with all that it claims to be.
    if name == "BINPERSID" and kinds != ["tuple"]:
        return "expected tensors, found a pickle whose data has no plain name and size"
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
