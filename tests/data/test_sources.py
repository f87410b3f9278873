"""Published sets are found in every layout, and refused where a file is another one's."""

import gzip

import pytest
import torch

from lenet.data.known_sets import KNOWN
from lenet.data.sets import load_files
from lenet.data.sources import embedded_digits, find
from tests.support.fake_sets import Fake, FakeBatches, refusal

LAYOUTS = ("raw", "raw.gz", "plain", "plain.gz")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, "raw.gz") for name in KNOWN if name != "cifar10"),
        *(("kmnist", layout) for layout in LAYOUTS),
    ],
)
def test_each_set_is_read_upright_and_from_0_in_each_layout(tmp_path, monkeypatch, name, layout):
    fake = Fake(name).publish(monkeypatch)
    fake.lay(tmp_path, layout)
    raw = find(name, tmp_path)
    assert fake.is_what_was_read(raw)
    assert (raw.name, raw.where) == (name, str(fake.folder(tmp_path, layout)))
    assert raw.classes == KNOWN[name].classes


def test_the_tutorials_layout_goes_before_torchvisions_and_that_before_plain_files(tmp_path):
    for seed, layout in enumerate(("plain.gz", "plain", "raw.gz", "raw", "pt")):
        fake = Fake("kmnist", seed)
        if layout == "pt":
            fake.lay_pt(tmp_path)
        else:
            fake.lay(tmp_path, layout)
        assert fake.is_what_was_read(find("kmnist", tmp_path)), layout


@pytest.mark.parametrize("layout", ["raw", "plain"])
def test_cifar10_is_read_with_its_colours(tmp_path, layout):
    fake = FakeBatches()
    fake.lay(tmp_path, layout)
    raw = find("cifar10", tmp_path)
    assert fake.is_what_was_read(raw)
    assert (raw.classes[0], raw.classes[9]) == ("airplane", "truck")
    missing = fake.folder(tmp_path, layout) / "test_batch"
    missing.unlink()
    assert refusal(lambda: find("cifar10", tmp_path)) == f"{missing}: no such file"


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw"])
def test_mnist_is_found_under_the_names_that_people_have_it(tmp_path, monkeypatch, folder, dotted):
    """Kaggle's files have a dot: train-images.idx3-ubyte. The root may be torchvision's folder."""
    fake = Fake("mnist").publish(monkeypatch)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, content in fake.files.items():
        (tmp_path / folder / (name.replace("-idx", ".idx") if dotted else name)).write_bytes(
            content
        )
    assert fake.is_what_was_read(find("mnist", tmp_path))


@pytest.mark.parametrize("folder", ["processed", "MNIST/processed"])
def test_torchvisions_old_files_are_found(tmp_path, monkeypatch, folder):
    fake = Fake("mnist").publish(monkeypatch)
    (tmp_path / folder).mkdir(parents=True)
    for name, pair in zip(("training.pt", "test.pt"), fake.pairs, strict=True):
        torch.save(pair, tmp_path / folder / name)
    assert fake.is_what_was_read(find("mnist", tmp_path))


def test_packed_and_plain_files_may_lie_side_by_side(tmp_path):
    fake = Fake("kmnist")
    fake.lay(tmp_path, "plain")
    file = fake.known.files[0]
    (tmp_path / f"{file}.gz").write_bytes(gzip.compress((tmp_path / file).read_bytes()))
    (tmp_path / file).unlink()
    assert fake.is_what_was_read(find("kmnist", tmp_path))


@pytest.mark.parametrize("root", ["empty", "nowhere/at/all", "x" * 300], ids=len)
def test_a_folder_without_the_files_of_a_set_has_no_set(tmp_path, root):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("other")
    assert [name for name in KNOWN if find(name, tmp_path / root)] == []


@pytest.mark.parametrize(("index", "layout"), list(enumerate(LAYOUTS)))
def test_one_missing_file_of_four_is_named(tmp_path, layout, index):
    fake = Fake("kmnist")
    missing = fake.known.files[index]
    fake.lay(tmp_path, layout, leave_out=missing)
    path = fake.folder(tmp_path, layout) / missing
    assert refusal(lambda: find("kmnist", tmp_path)) == f"{path}: no such file"


def test_one_missing_file_of_the_tutorials_two_is_named(tmp_path):
    missing = Fake("kmnist").lay_pt(tmp_path)[1]
    missing.unlink()
    assert refusal(lambda: find("kmnist", tmp_path)).startswith(f"{missing}: no such file")


@pytest.mark.parametrize("claimed", ["mnist", "kmnist"])
def test_the_files_of_another_set_are_refused_by_its_name(tmp_path, monkeypatch, claimed):
    clothes = Fake("fashion_mnist", seed=1).publish(monkeypatch)
    clothes.lay(tmp_path, "plain")
    message = refusal(lambda: find(claimed, tmp_path))
    file = clothes.known.files[0]
    assert message == f"{tmp_path / file}: expected {claimed}'s {file}, found fashion_mnist's"


@pytest.mark.parametrize("index", [0, 3])
def test_one_changed_byte_in_a_set_of_known_contents_is_refused(tmp_path, monkeypatch, index):
    fake = Fake("mnist").publish(monkeypatch)
    fake.lay(tmp_path, "raw")
    path = tmp_path / "MNIST" / "raw" / fake.known.files[index]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = refusal(lambda: find("mnist", tmp_path))
    assert message.startswith(f"{path}: expected mnist's {path.name}, found others")
    assert message.endswith("for a set of your own use data=files")
    train, test = ([str(path.parent / f) for f in fake.known.files[k : k + 2]] for k in (0, 2))
    assert load_files("own", train, test).train.count == len(fake.pairs[0][1])


@pytest.mark.slow
def test_mnist_itself_is_found(mnist_root):
    raw = find("mnist", mnist_root)
    assert (raw.train[0].shape, raw.test[0].shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert raw.test[1][:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]  # the tutorial prints these
    message = refusal(lambda: find("kmnist", mnist_root))
    assert message.endswith("expected kmnist's train-images-idx3-ubyte, found mnist's")


def test_the_embedded_digits_are_drawn_in_the_middle():
    raw = embedded_digits()
    assert [len(labels) for _, labels in (raw.train, raw.test)] == [1437, 360]
    for images, labels in (raw.train, raw.test):
        assert images.shape[1:] == (28, 28)
        assert images.max() == 255
        assert images[:, :4].max() == images[:, -4:].max() == 0
        assert images[..., :4].max() == images[..., -4:].max() == 0
        assert (labels.bincount(minlength=10) > len(labels) // 20).all()
