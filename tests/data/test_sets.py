"""What is trained on is what lay in the files: split once for ever, scaled as the tutorial does."""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from lenet.data.batches import Batches, permutation
from lenet.data.errors import DataError
from lenet.data.images import MNIST_MEAN, MNIST_STD, as_input
from lenet.data.known_sets import DIGITS
from lenet.data.sets import Data, load, load_files, prepare
from lenet.data.sources import Pair, Raw

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's mirrors are on this machine, and none of them answers; asking others is an error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mirrors = [f"http://127.0.0.1:{port}/{folder}/" for folder in "ab"]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a test reached for {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_connect)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def noise(count: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def cycle(count: int, classes: int = 10, first: int = 0) -> Tensor:
    return torch.arange(count) % classes + first


def pair(count: int, *shape: int, classes: int = 10, first: int = 0, seed: int = 0) -> Pair:
    return noise(count, *(shape or (28, 28)), seed=seed), cycle(count, classes, first)


def numbered(count: int, tests: int = 5) -> Raw:
    """Each training image holds its own number in its first two pixels."""
    images = torch.zeros(count, 16, 16, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1] = torch.arange(count) // 256, torch.arange(count) % 256
    return Raw("numbered", (images, cycle(count)), pair(tests, 16, 16), DIGITS, "memory")


def numbers(images: Tensor) -> list[int]:
    levels = (images[:, 0, 0, :2] * 255).round().long()
    return (levels[:, 0] * 256 + levels[:, 1]).tolist()


def plain(raw: Raw, **options: Any) -> Data:
    return prepare(raw, **({"image_size": 16, "mean": 0.0, "std": 1.0} | options))


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)


def tutorials_files(root: Path, train: Pair, test: Pair) -> None:
    saved(root / "train" / "MNIST" / "processed" / "training.pt", train)
    saved(root / "test" / "MNIST" / "processed" / "test.pt", test)


def tutorials_chain(images: Tensor) -> Tensor:
    """What the tutorial does with each image, each time it is asked for."""
    from torchvision import transforms

    chain = transforms.Compose(
        [
            transforms.Pad(2),
            transforms.ToTensor(),
            transforms.Normalize((MNIST_MEAN,), (MNIST_STD,)),
        ]
    )
    return torch.stack([chain(Image.fromarray(image.numpy())) for image in images])


# ---- batches ---------------------------------------------------------------------------------


def order(batches: Batches) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


def counted(count: int, batch_size: int = 7, seed: int | None = 3) -> Batches:
    """Labels are the examples' places, and so are the images' pixels."""
    places = torch.arange(count)
    return Batches(places.float().reshape(-1, 1, 1, 1), places, batch_size, seed)


def test_the_order_of_an_epoch_follows_from_seed_and_epoch_alone() -> None:
    through, straight = counted(50), counted(50, batch_size=64)
    torch.manual_seed(0)
    orders = []
    for epoch in (1, 2, 3):
        through.set_epoch(epoch)
        orders.append(order(through))
    torch.manual_seed(1)
    torch.rand(9)
    straight.set_epoch(3)
    assert order(straight) == order(straight) == orders[2]  # no epoch before it, another batch size
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert len({tuple(each) for each in [*orders, range(50)]}) == 4


def test_seed_and_epoch_are_not_interchangeable() -> None:
    seen = set()
    for seed in range(5):
        batches = counted(30, seed=seed)
        for epoch in range(1, 6):
            batches.set_epoch(epoch)
            seen.add(tuple(order(batches)))
    assert len(seen) == 25


def test_shuffling_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    order(counted(50))
    assert torch.rand(4).equal(expected)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), shuffled=st.booleans())
@settings(deadline=None, derandomize=True)
def test_each_example_comes_once_with_its_label_and_the_last_batch_is_short(
    count: int, batch_size: int, shuffled: bool
) -> None:
    batches = counted(count, batch_size, 0 if shuffled else None)
    sizes = []
    for images, labels in batches:
        assert images.flatten().tolist() == labels.tolist()
        sizes.append(len(labels))
    assert sum(sizes) == count == batches.count
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= batch_size
    assert len(sizes) == len(batches)
    assert sorted(order(batches)) == list(range(count))


def test_without_a_seed_examples_keep_their_order_in_every_epoch() -> None:
    batches = counted(20, seed=None)
    assert order(batches) == list(range(20))
    batches.set_epoch(2)
    assert order(batches) == list(range(20))


def test_moving_to_a_device_changes_no_order() -> None:
    batches = counted(50)
    batches.set_epoch(4)
    assert order(batches.to(torch.device("cpu"))) == order(batches)


def test_a_random_order_is_the_same_in_every_version() -> None:
    # The validation split of every recorded run depends on it.
    assert permutation(12, 1998).tolist() == [1, 5, 3, 4, 11, 10, 2, 9, 8, 0, 7, 6]
    assert permutation(12, 0, 1).tolist() == [5, 9, 2, 4, 6, 0, 10, 1, 11, 7, 8, 3]


# ---- splits ----------------------------------------------------------------------------------


def test_the_validation_split_is_the_same_for_all_seeds_and_batch_sizes() -> None:
    raw = numbered(300)
    splits = [
        plain(raw, val_size=60, seed=seed, batch_size=size) for seed, size in ((0, 64), (1, 7))
    ]
    held_out = [numbers(data.val.inputs) for data in splits if data.val]
    assert held_out[0] == held_out[1]
    assert len(set(held_out[0])) == 60
    assert splits[0].val_sha256 == splits[1].val_sha256


def test_training_and_validation_images_are_disjoint_and_together_all() -> None:
    data = plain(numbered(300), val_size=60)
    assert data.val is not None
    held_out, kept = numbers(data.val.inputs), numbers(data.train.inputs)
    assert sorted(held_out + kept) == list(range(300))
    assert data.val.labels.tolist() == [n % 10 for n in held_out]
    assert data.train.labels.tolist() == [n % 10 for n in kept]
    assert held_out != list(range(60))
    assert held_out != list(range(240, 300))


def test_the_hash_of_the_split_is_that_of_its_indices() -> None:
    data = plain(numbered(300), val_size=60)
    assert data.val is not None
    indices = np.array(numbers(data.val.inputs), np.int64)
    assert data.val_sha256 == hashlib.sha256(indices.tobytes()).hexdigest()
    assert plain(numbered(300), val_size=61).val_sha256 != data.val_sha256
    assert plain(numbered(300)).val_sha256 is None


def test_a_smaller_training_set_is_part_of_a_larger_and_never_touches_validation() -> None:
    parts = [plain(numbered(300), train_size=size, val_size=60) for size in (50, 100, 240)]
    kept = [set(numbers(data.train.inputs)) for data in parts]
    assert [len(each) for each in kept] == [50, 100, 240]
    assert kept[0] < kept[1] < kept[2]
    assert len({data.val_sha256 for data in parts}) == 1
    assert parts[0].val is not None
    assert kept[2].isdisjoint(numbers(parts[0].val.inputs))


def test_without_a_split_all_images_are_trained_on_in_their_order() -> None:
    data = plain(numbered(300))
    assert data.val is None
    assert numbers(data.train.inputs) == list(range(300))
    assert numbers(plain(numbered(300), train_size=300).train.inputs) == list(range(300))


@pytest.mark.parametrize(
    ("train_size", "val_size"), [(0, 0), (301, 0), (241, 60), (None, 300), (None, 301), (None, -5)]
)
def test_sizes_that_do_not_fit_are_refused(train_size: int | None, val_size: int) -> None:
    message = refusal(lambda: plain(numbered(300), train_size=train_size, val_size=val_size))
    assert f"data.val_size={val_size}" in message
    assert "at most 300 in all" in message


def test_only_the_training_batches_are_shuffled_and_each_part_has_its_batch_size() -> None:
    data = plain(numbered(30), val_size=10, batch_size=4, test_batch_size=9, seed=5)
    assert data.val is not None
    assert (data.train.seed, data.val.seed, data.test.seed) == (5, None, None)
    assert [part.batch_size for part in (data.train, data.val, data.test)] == [4, 9, 9]


def test_the_sets_checksum_follows_the_contents_alone() -> None:
    def checksum(raw: Raw, **options: Any) -> str:
        return plain(raw, **options).sha256

    raw = numbered(30)
    other = numbered(30)
    other.test[1][0] += 1
    assert checksum(raw) == checksum(numbered(30), val_size=5, image_size=32, mean=0.5)
    assert checksum(raw) != checksum(other)


# ---- pixels ----------------------------------------------------------------------------------


def test_bytes_become_inputs_as_in_the_tutorial_bit_for_bit() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(4)[: 28 * 28].reshape(1, 28, 28)
    images = torch.cat([levels, noise(20, 28, 28)])
    assert as_input(images, 32, MNIST_MEAN, MNIST_STD).equal(tutorials_chain(images))


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([0, 1, 3]))
@settings(deadline=None, derandomize=True)
def test_smaller_images_of_any_size_and_colour_get_an_even_border(
    height: int, width: int, channels: int
) -> None:
    shape = (channels, height, width) if channels else (height, width)
    images = noise(3, *shape)
    inputs = as_input(images, 20, 0.5, 0.25)
    assert inputs.dtype == torch.float32
    assert inputs.shape == (3, channels or 1, 20, 20)
    top, left = (20 - height) // 2, (20 - width) // 2
    inner = inputs[:, :, top : top + height, left : left + width].clone()
    expected = (images.reshape(3, -1, height, width).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(inner, expected)
    inputs[:, :, top : top + height, left : left + width] = -2  # (0 - 0.5) / 0.25
    assert (inputs == -2).all()


@pytest.mark.parametrize("shape", [(48, 48), (33, 20), (3, 64, 40)])
def test_larger_images_are_resized_and_keep_what_they_show(shape: tuple[int, ...]) -> None:
    images = torch.zeros(1005, *shape, dtype=torch.uint8)  # more than one part of 1,000
    images[1000:, ..., : shape[-1] // 2] = 255  # a white left half, in the second part alone
    inputs = as_input(images, 32, 0.0, 1.0)
    assert inputs.shape == (1005, 3 if len(shape) == 3 else 1, 32, 32)
    assert (inputs[:1000] == 0).all()
    torch.testing.assert_close(inputs[1000:, ..., :14], torch.ones(5, inputs.shape[1], 32, 14))
    assert (inputs[1000:, ..., 18:] == 0).all()
    assert 0 <= inputs.min() <= inputs.max() <= 1 + 1e-6


def test_mean_and_deviation_are_those_of_all_training_pixels() -> None:
    images = noise(2500, 8, 8) // 2
    raw = Raw("noise", (images, cycle(2500)), pair(5, 8, 8), DIGITS, "memory")
    data = prepare(raw, val_size=500, image_size=16)
    pixels = images.double() / 255
    assert data.inputs.mean == round(pixels.mean().item(), 4)
    assert data.inputs.std == round(pixels.std(correction=0).item(), 4)
    assert prepare(raw, image_size=16, mean=0.25).inputs.std == data.inputs.std
    assert prepare(raw, image_size=16, mean=0.25).inputs.mean == 0.25
    assert prepare(raw, image_size=16, std=2.0).inputs.std == 2.0


def test_images_without_any_contrast_stay_finite() -> None:
    blank = torch.full((20, 8, 8), 7, dtype=torch.uint8)
    data = prepare(Raw("blank", (blank, cycle(20)), (blank, cycle(20)), DIGITS, "memory"))
    assert data.train.inputs.isfinite().all()


# ---- sets by name ----------------------------------------------------------------------------


def test_digits_are_the_same_every_time_with_all_classes_in_all_parts(tmp_path: Path) -> None:
    first, second = (load("digits", str(tmp_path), val_size=200, seed=seed) for seed in (0, 1))
    assert (first.name, first.inputs.classes, first.where) == ("digits", DIGITS, "scikit-learn")
    assert first.sha256 == second.sha256
    assert first.val is not None
    for part in (first.train, first.val, first.test):
        assert part.images.shape[1:] == (1, 32, 32)
        assert (part.labels.bincount(minlength=10) > 0).all()
    assert first.train.inputs.equal(second.train.inputs)
    assert first.line() == (
        "digits: 1,237 training images, 200 validation images, 360 test images, 10 classes"
    )


@pytest.mark.parametrize("download", [False, True])
def test_auto_falls_back_to_digits_with_one_warning_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], download: bool
) -> None:
    data = load("auto", str(tmp_path / "data"), download=download)
    assert data.name == "digits"
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith("Downloading http")]
    assert len(lines) == 1
    start = f"Warning: using the 1,797 embedded digits: no mnist under {tmp_path / 'data'}"
    assert lines[0].startswith(start)
    assert ("could not be downloaded" in lines[0]) == download
    assert list(tmp_path.iterdir()) == []


def test_mnist_insists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(lambda: load("mnist", str(tmp_path), download=False))
    assert message == f"no mnist under {tmp_path}"
    assert capsys.readouterr().err == ""
    message = refusal(lambda: load("mnist", str(tmp_path)))
    assert message.startswith(f"no mnist under {tmp_path}, and train-images-idx3-ubyte.gz could")
    assert message.count("ConnectionError") == 2


def test_auto_does_not_hide_damaged_files_behind_digits(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"damaged")
    assert str(tmp_path / "train-images-idx3-ubyte") in refusal(lambda: load("auto", str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("minst", None, "data.name=minst: expected one of auto, mnist"),
        ("emnist", None, "data.split=None: expected one of balanced, byclass"),
        ("emnist", "capitals", "data.split=capitals: expected one of balanced, byclass"),
        ("mnist", "letters", "data.split=letters: only emnist has splits"),
    ],
)
def test_a_name_or_split_that_is_unknown_is_refused_with_those_there_are(
    tmp_path: Path, name: str, split: str | None, expected: str
) -> None:
    assert refusal(lambda: load(name, str(tmp_path), split)).startswith(expected)


def test_a_root_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "sets") in refusal(lambda: load("mnist", "~/sets", download=False))
    refusal(lambda: load("mnist", "~no-such-user/sets", download=False))


# ---- sets of one's own -----------------------------------------------------------------------


def test_letters_of_ones_own_work_through_config_alone(
    tmp_path: Path, composed: Callable[..., DictConfig]
) -> None:
    train = saved(tmp_path / "letters.pt", pair(104, classes=26, first=1))
    test = saved(tmp_path / "letters-test.pt", pair(52, classes=26, first=1, seed=1))
    config = composed(
        *("data=files", f"data.train=[{train}]", f"data.test=[{test}]"),
        *("data.name=letters", "data.first_label=1", "data.val_size=26"),
    )
    data = instantiate(config.data)
    assert (
        data.name,
        len(data.inputs.classes),
        data.inputs.in_channels,
        data.inputs.image_size,
    ) == (
        "letters",
        26,
        1,
        32,
    )
    assert (data.train.count, data.val.count, data.test.count) == (78, 26, 52)
    assert data.test.labels.tolist() == [*range(26)] * 2
    assert data.test.inputs.equal(
        as_input(noise(52, 28, 28, seed=1), 32, data.inputs.mean, data.inputs.std)
    )


@pytest.mark.parametrize("shape", [(20, 20), (28, 28), (48, 48), (3, 24, 30), (21, 27)])
@pytest.mark.parametrize("form", ["pt", "idx"])
def test_a_set_of_any_image_size_is_read_from_pt_and_idx(
    tmp_path: Path, shape: tuple[int, ...], form: str
) -> None:
    train, test = pair(30, *shape), pair(20, *shape, seed=1)
    files = []
    for part, (images, labels) in (("train", train), ("test", test)):
        if form == "pt":
            files.append([saved(tmp_path / f"{part}.pt", (images, labels))])
            continue
        files.append([str(tmp_path / f"{part}-{kind}") for kind in ("images", "labels")])
        for path, array in zip(files[-1], (images.numpy(), labels.byte().numpy()), strict=True):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            Path(path).write_bytes(header + array.tobytes())
    data = load_files("own", files[0], files[1], image_size=32)
    assert data.train.inputs.shape == (30, 3 if len(shape) == 3 else 1, 32, 32)
    assert data.train.inputs.equal(as_input(train[0], 32, data.inputs.mean, data.inputs.std))
    assert data.test.inputs.equal(as_input(test[0], 32, data.inputs.mean, data.inputs.std))
    assert data.test.labels.equal(test[1])
    assert data.inputs.classes == DIGITS


def own(tmp_path: Path, train: Pair, test: Pair, **options: Any) -> Data:
    files = [[saved(tmp_path / "a.pt", train)], [saved(tmp_path / "b.pt", test)]]
    return load_files("own", files[0], files[1], **options)


def test_classes_are_counted_where_they_are_not_named(tmp_path: Path) -> None:
    data = own(tmp_path, pair(30, classes=26, first=1), pair(10, classes=5, first=1), first_label=1)
    assert data.inputs.classes == tuple(str(k) for k in range(26))
    assert data.train.labels.min() == 0


def test_classes_that_are_named_keep_their_order_and_may_be_more_than_there_are(
    tmp_path: Path,
) -> None:
    data = own(tmp_path, pair(9, classes=3), pair(9, classes=3), classes=["c", "a", 7, "b"])
    assert data.inputs.classes == ("c", "a", "7", "b")


@pytest.mark.parametrize(
    ("train_labels", "test_labels", "options", "expected"),
    [
        ((26, 0), (26, 0), {"classes": "abcdefghijklmnopqrstuvwxy"}, "to 24 .* 25 .*training"),
        ((26, 1), (26, 1), {"classes": "abcdefghijklmnopqrstuvwxyz"}, "to 25 .* 26 .*training"),
        ((10, 0), (11, 0), {}, "to 9 .* 10 among the test labels"),
        ((10, 1), (10, 0), {"first_label": 1}, "to 9 .* -1 among the test labels"),
        ((10, -1), (10, 0), {}, "to 8 .* -1 among the training labels"),
        ((2, 5000), (2, 5000), {}, "labels below 1000, found 5001"),
    ],
)
def test_labels_out_of_range_are_refused_by_file_and_value(
    tmp_path: Path,
    train_labels: tuple[int, int],
    test_labels: tuple[int, int],
    options: dict[str, Any],
    expected: str,
) -> None:
    train, test = (
        (noise(40, 28, 28), cycle(40, *labels)) for labels in (train_labels, test_labels)
    )
    with pytest.raises(DataError, match=expected) as caught:
        own(tmp_path, train, test, **options)
    assert "\n" not in str(caught.value)
    assert f"{tmp_path / 'a.pt'}, {tmp_path / 'b.pt'}: expected " in str(caught.value)


def test_training_and_test_images_of_other_shapes_are_refused(tmp_path: Path) -> None:
    message = refusal(lambda: own(tmp_path, pair(20, 28, 28), pair(20, 28, 20)))
    assert message.endswith("expected images of one shape, found [28, 28] and [28, 20]")
    assert str(tmp_path / "b.pt") in message


@pytest.mark.parametrize("paths", [[], ["a.idx"], ["a.pt", "b.pt", "c.pt"]])
def test_a_wrong_number_of_files_is_refused(paths: list[str]) -> None:
    message = refusal(lambda: load_files("own", paths, paths))
    assert message.startswith("expected one .pt file or two IDX files (images, labels), found ")


def test_a_bad_file_of_ones_own_is_named(tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "good.pt", pair(20)), tmp_path / "bad.pt"
    for content, expected in (
        ((noise(20, 28, 28).float(), cycle(20)), "images as uint8"),
        ((noise(20, 28, 28), cycle(19)), "as many labels as images"),
        ({"images": noise(20, 28, 28)}, "a tuple of images and labels"),
    ):
        saved(bad, content)
        message = refusal(lambda: load_files("own", [good], [str(bad)]))
        assert message.startswith(f"{bad}: expected {expected}")
