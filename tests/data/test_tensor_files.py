"""Files that lie: cut, flipped, foreign, executable. And files that were never finished."""

import hashlib
import io
import os
import pickle
import resource
import stat
import struct
import zipfile

import pytest
import torch
from torch import nn

from lenet.data import tensor_files as tensors
from lenet.data.tensor_files import CheckpointError, load, save


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def test_nested_states_come_back_with_their_types(path):
    state = {
        "model": weights(small()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "special": [float("inf"), None, True, "text", (1, 2)],
        "float64": torch.tensor([1 / 3], dtype=torch.float64),
    }
    save(state, path)
    found = load(path)
    assert same(found["model"], state["model"])
    assert torch.equal(found["float64"], state["float64"])
    assert found["float64"].dtype is torch.float64
    for key in ("epoch", "special"):
        assert found[key] == state[key]
        assert type(found[key]) is type(state[key])
    assert found["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_the_device_is_where_the_weights_end_up(path):
    save(small().state_dict(), path)
    assert {tensor.device.type for tensor in load(path, "meta").values()} == {"meta"}
    assert {tensor.device.type for tensor in load(path).values()} == {"cpu"}


def test_missing_folders_are_made(tmp_path):
    save({"a": 1}, tmp_path / "runs" / "one" / "state.pt")
    assert load(tmp_path / "runs" / "one" / "state.pt") == {"a": 1}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_of_any_new_file(path, mask):
    before = os.umask(mask)
    try:
        save({}, path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [(torch, "save"), (os, "fsync"), (os, "replace")])
def test_a_crash_in_the_middle_leaves_the_old_file_and_nothing_else(
    path, monkeypatch, place, error
):
    save({"epoch": 1}, path)

    def crash(*_):
        raise error

    monkeypatch.setattr(*place, crash)
    with pytest.raises(type(error)):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert load(path) == {"epoch": 1}


def test_a_crash_of_the_first_save_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011
        save({}, path)
    assert os.listdir(path.parent) == []


def test_the_file_is_whole_before_it_has_its_name(path, monkeypatch):
    """And the name is, once its folder is: a power cut may leave neither name nor contents."""
    done = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("replace"), real_replace(*a)))
    save({"a": torch.ones(3)}, path)
    assert done == ["fsync", "replace", "fsync"]


def test_every_flipped_bit_is_noticed(path):
    save({"weight": torch.tensor([1.0, 2.0, 3.0]), "epoch": 3}, path)
    content = bytearray(path.read_bytes())
    for place in range(8 * len(content)):
        content[place // 8] ^= 1 << place % 8
        with pytest.raises(CheckpointError, match=r"^expected .*$"):
            tensors._parsed(bytes(content), torch.device("cpu"))
        content[place // 8] ^= 1 << place % 8


def test_a_flipped_bit_in_anothers_weights_is_noticed(path):
    """Their ZIP has a CRC of each part, though none of its headers."""
    torch.save(small().state_dict(), path)
    content = bytearray(path.read_bytes())
    raw = small()[0].weight.detach().numpy().tobytes()
    start = content.index(raw)
    for offset in range(0, len(raw), 7):
        content[start + offset] ^= 0x40
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="checksum") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        content[start + offset] ^= 0x40


def test_a_saved_file_is_an_archive_like_any_other(path):
    save(small().state_dict(), path)
    assert same(torch.load(path, weights_only=True), weights(small()))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        content = path.read_bytes()
        digest = hashlib.sha256(content[: -len(archive.comment)]).hexdigest()
        assert archive.comment.decode() == f"sha256:{digest}"


def test_a_files_bytes_depend_on_the_state_alone(path, tmp_path):
    save(small().state_dict(), path)
    save(small().state_dict(), tmp_path / "another.pt")
    assert path.read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_file_cut_at_any_length_is_noticed(path):
    save(small().state_dict(), path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 29), *range(len(content) - 100, len(content))]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: expected ")
        assert "\n" not in str(caught.value)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "beside weights"])
def test_a_pickle_with_code_is_refused_and_not_run(path, tmp_path, kind):
    marker = tmp_path / "executed"
    bomb = Bomb(marker)
    if kind == "zip":
        torch.save(bomb, path)
    elif kind == "legacy":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({**small().state_dict(), "extra": bomb}, path)
    with pytest.raises(CheckpointError, match="nothing of it was executed"):
        load(path)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused(path):
    torch.save(small(), path)
    with pytest.raises(
        CheckpointError, match=r"wants to run torch\.nn\.modules\.container\.Sequential; nothing"
    ):
        load(path)


def test_a_missing_file_and_a_folder_are_named(path):
    with pytest.raises(CheckpointError, match=r"found nothing there$") as caught:
        load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=r"expected a file of tensors, found a folder$"):
        load(path.parent)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00" * 100, b"PK\x03\x04", b"\x80\x02."])
def test_a_file_of_something_else_is_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


# ---- Files that claim, call or hold more than a file of tensors does -------------------------


def archive(state_pickle, parts=(), compression=zipfile.ZIP_STORED):
    """A file as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", state_pickle)
        file.writestr("archive/version", "3\n")
        for name, content in parts:
            file.writestr(name, content)
    return buffer.getvalue()


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(key, items):
    kind = b"ctorch\nFloatStorage\n"
    return b"(" + text(b"storage") + kind + text(key) + text(b"cpu") + number(items) + b"tQ"


def tensor(storage, size, stride):
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return (
        call + storage + b"K\0" + number(size) + b"\x85" + number(stride) + b"\x85" + hooks + b"tR"
    )


ROW = tensor(storage(b"0", 1), 10**9, 0)  # of 10**9 numbers, one of which is there


def refusal(path, content):
    """One line, and the memory of a small file."""
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: expected ")
    return message


def test_the_archive_made_here_is_read(path):
    content = struct.pack("<3f", 1, 2, 3)
    state = b"\x80\2" + tensor(storage(b"0", 3), 3, 1) + b"."
    path.write_bytes(archive(state, [("archive/data/0", content)]))
    assert load(path).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (b"c__builtin__\nbytearray\n" + number(2 * 10**9) + b"\x85R", "__builtin__.bytearray"),
        (b"ctorch\nFloatTensor\n" + number(10**9) + b"\x85R", "torch.FloatTensor"),
        (b"ctorch.storage\nUntypedStorage\n" + number(10**9) + b"\x85R", "UntypedStorage"),
        (
            text(b"0123456789")
            + b"q\1"
            + b"c_codecs\nencode\nh\1"
            + text(b"hex")
            + b"\x86Rq\1" * 30,
            "_codecs.encode",
        ),
        (b"c__builtin__\nset\n" + ROW + b"\x85R", "__builtin__.set"),
        (b"ctorch\nSize\n" + ROW + b"\x85R", "torch.Size"),
    ],
)
def test_calls_that_make_gigabytes_of_bytes_are_refused(path, call, name):
    message = refusal(path, archive(b"\x80\2" + call + b"."))
    assert f"{name}; nothing of it was executed" in message


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"ccollections\nOrderedDict\n" + ROW + b"\x85R", "calls something else"),
        (b"ccollections\nOrderedDict\n)R" + ROW + b"b", "sets more than attributes"),
        (ROW + ROW + b"b", "sets more than attributes"),
        (storage(b"0", 1).replace(number(1), ROW), "no plain name and size"),
    ],
)
def test_a_row_that_is_one_number_is_not_taken_apart(path, content, found):
    content = archive(b"\x80\2" + content + b".", [("archive/data/0", bytes(4))])
    assert found in refusal(path, content)


LISTS = b"]q\1" + b"](h\1h\1eq\1" * 40
TUPLES = b")q\1" + b"h\1\x86q\1" * 40


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"}" + TUPLES + b"K\0s", "found more"),  # its hash visits 2^40
        (b"}" + b")" + b"\x85" * 50_000 + b"K\0s", "found more"),  # in C, each within another
        (LISTS + b")R", "calls something else"),  # torch writes out what it will not call
        (b"]" * 200_000, "a longer one"),
    ],
)
def test_a_pickle_that_never_ends_or_ends_the_interpreter_is_refused(path, content, found):
    assert found in refusal(path, archive(b"\x80\2" + content + b"."))


def test_the_version_of_an_old_file_is_not_written_out(path):
    """As torch would, of one that holds itself 2^40 times."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    rest = pickle.dumps({}, 2) + pickle.dumps(None, 2) + pickle.dumps([], 2)
    assert "other pickles" in refusal(path, magic + b"\x80\2" + LISTS + b"." + rest)


def test_one_part_under_a_hundred_names_is_not_read_a_hundred_times(path):
    names = [b"0\0%d" % k for k in range(100)]
    state = b"\x80\2](" + b"".join(storage(name, 10**6) for name in names) + b"e."
    assert "zero byte" in refusal(path, archive(state, [("archive/data/0", bytes(4 * 10**6))]))


def test_compressed_parts_are_refused_before_they_are_unpacked(path):
    bomb = archive(b"\x80\2N.", [("archive/data/0", bytes(64 << 20))], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    assert "compressed" in refusal(path, bomb)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "unusual",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.eye(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.ones(2, dtype=torch.complex64).conj(),
    ],
)
def test_tensors_that_are_not_all_there_are_refused_wherever_they_stand(path, unusual, legacy):
    buffer = io.BytesIO()
    state = {"model": [(unusual,)], "epoch": 3}
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    assert "expected dense tensors" in refusal(path, buffer.getvalue())


@pytest.mark.parametrize("items", [10**9, 2**62])
def test_an_old_file_that_claims_gigabytes_costs_nothing(path, items):
    """With and without a name in the list of those whose numbers follow."""
    start = io.BytesIO()
    torch.save({}, start, _use_new_zipfile_serialization=False)
    head = start.getvalue().removesuffix(b"\x80\2}q\0.\x80\2]q\0.")
    assert len(head) < len(start.getvalue())
    old = storage(b"0", items).replace(b"tQ", b"NtQ")
    for names in (b"\x80\2]" + text(b"0") + b"a.", b"\x80\2]."):
        state = b"\x80\2" + tensor(old, 10**9, 1) + b"."
        refusal(path, head + state + names + struct.pack("<q", items) + bytes(12))


@pytest.mark.parametrize("items", [0, 3, 10**9])
def test_no_storage_of_an_old_file_is_made_larger(path, items):
    """As set_ does for a tensor that reaches behind it: a copy of all that it claims to be."""
    start = io.BytesIO()
    torch.save({}, start, _use_new_zipfile_serialization=False)
    head = start.getvalue().removesuffix(b"\x80\2}q\0.\x80\2]q\0.")
    old = storage(b"0", items).replace(b"tQ", b"NtQ")
    state = b"\x80\2](" + tensor(old, items + 1, 1) + tensor(old, items + 2, 1) + b"e."
    keys = b"\x80\2]" + text(b"0") + b"a."
    refusal(path, head + state + keys + struct.pack("<q", items) + bytes(12))


def test_empty_tensors_of_an_old_file_are_read(path):
    torch.save([torch.ones(0), torch.ones(2, 0)], path, _use_new_zipfile_serialization=False)
    assert [tuple(found.shape) for found in load(path)] == [(0,), (2, 0)]


def test_methods_of_a_state_cannot_be_replaced(path):
    attributes = b"}" + text(b"items") + b"Nsb"
    state = b"\x80\2ccollections\nOrderedDict\n)R" + attributes + b"."
    assert "a dict with attributes" in refusal(path, archive(state))


@pytest.mark.parametrize("content", [torch.save, torch.FloatStorage, object()])
def test_functions_and_types_are_no_values(path, content):
    with pytest.raises((CheckpointError, pickle.PicklingError)):
        save({"epoch": 1, "extra": content}, path)
    assert not path.exists()


def test_what_could_not_be_read_again_is_not_written(path):
    save({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match="expected dense tensors"):
        save({"weight": torch.eye(3).to_sparse()}, path)
    assert load(path) == {"epoch": 1}


def test_a_state_that_holds_itself_is_walked_once(path):
    state = {"epoch": 1}
    state["self"] = [state]
    save(state, path)
    found = load(path)
    assert found["self"][0] is found


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_neither_waited_for_nor_replaced(path, make):
    make(path)
    for call in (lambda: load(path), lambda: save({}, path)):
        with pytest.raises(CheckpointError, match="found a device, pipe or socket"):
            call()
    assert not path.is_file()


def test_a_name_that_is_no_name_is_nothing_there(path):
    for name in ("a\0b", f"{path}/below"):
        save({}, path)
        with pytest.raises(CheckpointError, match="nothing there"):
            load(name)
    with pytest.raises(CheckpointError, match=r"no access \(File name too long\)"):
        load("7" * 300)


def test_an_archive_with_something_before_or_behind_it_is_refused(path):
    path.write_bytes(archive(b"\x80\2K\1."))
    assert load(path) == 1
    for content in (archive(b"\x80\2K\1.") + b"\0", b"\0" + archive(b"\x80\2K\1.")):
        refusal(path, content)
