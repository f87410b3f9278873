"""A set is split the same for every seed, and refused in one line where it does not fit."""

import pytest
import torch
from hydra.utils import instantiate

from lenet.data.errors import DataError
from lenet.data.images import as_input
from lenet.data.known_sets import DIGITS
from lenet.data.sets import load, load_files, prepare
from lenet.data.sources import Raw
from tests.support.fake_sets import Fake, cycle, noise, pair, refusal


def numbered(count, tests=5):
    """Each training image holds its own number in its first two pixels."""
    images = torch.zeros(count, 16, 16, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1] = torch.arange(count) // 256, torch.arange(count) % 256
    return Raw("numbered", (images, cycle(count)), pair(tests, 16, 16), DIGITS, "memory")


def numbers(images):
    levels = (images[:, 0, 0, :2] * 255).round().long()
    return (levels[:, 0] * 256 + levels[:, 1]).tolist()


def plain(raw, **options):
    return prepare(raw, **({"image_size": 16, "mean": 0.0, "std": 1.0} | options))


def saved(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)


# ---- splits ----------------------------------------------------------------------------------


def test_the_validation_split_is_the_same_for_all_seeds_and_batch_sizes():
    first = plain(numbered(300), val_size=60, seed=0, batch_size=64)
    other = plain(numbered(300), val_size=60, seed=1, batch_size=7)
    assert numbers(first.val.inputs) == numbers(other.val.inputs)
    assert first.val_sha256 == other.val_sha256
    assert first.val_sha256 != plain(numbered(300), val_size=61).val_sha256


def test_training_and_validation_images_are_disjoint_and_together_all():
    data = plain(numbered(300), val_size=60)
    held_out, kept = numbers(data.val.inputs), numbers(data.train.inputs)
    assert sorted(held_out + kept) == list(range(300))
    assert data.val.labels.tolist() == [n % 10 for n in held_out]
    assert data.train.labels.tolist() == [n % 10 for n in kept]
    assert held_out != list(range(60))


def test_a_smaller_training_set_is_part_of_a_larger_and_never_touches_validation():
    parts = [plain(numbered(300), train_size=size, val_size=60) for size in (50, 100, 240)]
    kept = [set(numbers(data.train.inputs)) for data in parts]
    assert [len(each) for each in kept] == [50, 100, 240]
    assert kept[0] < kept[1] < kept[2]
    assert len({data.val_sha256 for data in parts}) == 1
    assert kept[2].isdisjoint(numbers(parts[0].val.inputs))


def test_a_part_below_1_stands_for_its_number_of_images():
    data, same = (
        plain(numbered(300), train_size=0.5, val_size=0.2),
        plain(numbered(300), train_size=150, val_size=60),
    )
    assert numbers(data.train.inputs) == numbers(same.train.inputs)
    assert data.val_sha256 == same.val_sha256


def test_without_a_split_all_images_are_trained_on_in_their_order():
    data = plain(numbered(300))
    assert data.val is None
    assert numbers(data.train.inputs) == list(range(300))


@pytest.mark.parametrize(
    ("sizes", "start"),
    [
        ({"train_size": 0}, "data.train_size=0: expected 1 to 300 or a part"),
        ({"train_size": 241, "val_size": 60}, "data.train_size=241: expected 1 to 240 or a part"),
        ({"val_size": 0.999}, "data.val_size=0.999: expected 0 to 299 or a part"),
        ({"val_size": 300}, "data.val_size=300: expected 0 to 299 or a part"),
        ({"val_size": -5}, "data.val_size=-5: expected 0 to 299 or a part"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_the_key_that_was_set(sizes, start):
    message = refusal(lambda: plain(numbered(300), **sizes))
    assert message.startswith(start)
    assert "300 training images" in message


def test_the_sets_checksum_follows_the_contents_alone():
    def checksum(raw, **options):
        return plain(raw, **options).sha256

    raw = numbered(30)
    other = numbered(30)
    other.test[1][0] += 1
    assert checksum(raw) == checksum(numbered(30), val_size=5, image_size=32, mean=0.5)
    assert checksum(raw) != checksum(other)


def test_mean_and_deviation_are_those_of_all_training_pixels():
    images = noise(2500, 8, 8) // 2
    raw = Raw("noise", (images, cycle(2500)), pair(5, 8, 8), DIGITS, "memory")
    pixels = images.double() / 255
    mean, std = round(pixels.mean().item(), 4), round(pixels.std(correction=0).item(), 4)
    for options in ({"val_size": 500}, {"mean": 0.25}, {"std": 2.0}):
        inputs = prepare(raw, image_size=16, **options).inputs
        expected = (options.get("mean", mean), options.get("std", std))
        assert (inputs.mean, inputs.std) == expected


def test_colours_have_the_mean_and_deviation_of_each_channel():
    images = noise(300, 3, 8, 8) // torch.tensor([1, 2, 4]).view(3, 1, 1)
    raw = Raw("noise", (images.byte(), cycle(300)), (images.byte(), cycle(300)), DIGITS, "memory")
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    data = prepare(raw, image_size=16)
    assert data.inputs.mean == pytest.approx(pixels.mean(1).tolist(), abs=5e-5)
    assert data.inputs.std == pytest.approx(pixels.std(1, correction=0).tolist(), abs=5e-5)
    assert prepare(raw, image_size=16, mean=[0.1, 0.2, 0.3], std=0.5).inputs.std == 0.5
    message = refusal(lambda: prepare(raw, image_size=16, mean=[0.1, 0.2]))
    assert "mean: expected one number, or 3, one a channel, found 2" in message


def test_images_without_any_contrast_stay_finite():
    blank = torch.full((20, 8, 8), 7, dtype=torch.uint8)
    data = prepare(Raw("blank", (blank, cycle(20)), (blank, cycle(20)), DIGITS, "memory"))
    assert data.train.inputs.isfinite().all()


# ---- sets by name ----------------------------------------------------------------------------


def test_digits_need_no_file_and_have_all_classes_in_all_parts(tmp_path):
    data = load("digits", str(tmp_path), val_size=200)
    assert (data.name, data.inputs.classes, data.where) == ("digits", DIGITS, "scikit-learn")
    for part in (data.train, data.val, data.test):
        assert part.images.shape[1:] == (1, 32, 32)
        assert (part.labels.bincount(minlength=10) > 0).all()
    assert data.line() == (
        "digits: 1,237 training images, 200 validation images, 360 test images, 10 classes"
    )


@pytest.mark.parametrize("download", [False, True])
def test_auto_falls_back_to_digits_with_one_warning_line(tmp_path, capsys, download):
    data = load("auto", str(tmp_path / "data"), download=download)
    assert data.name == "digits"
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith("Downloading http")]
    assert len(lines) == 1
    start = f"Warning: using the 1,797 embedded digits: no mnist under {tmp_path / 'data'}"
    assert lines[0].startswith(start)
    assert ("could not be downloaded" in lines[0]) == download
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_mnist_does_not_fall_back_to_digits(tmp_path, capsys):
    message = refusal(lambda: load("mnist", str(tmp_path), download=False))
    assert message == f"no mnist under {tmp_path}"
    assert capsys.readouterr().err == ""
    message = refusal(lambda: load("mnist", str(tmp_path)))
    assert message.startswith(f"no mnist under {tmp_path}, and mnist could not be downloaded to ")
    assert message.count("ProxyError") == 2


def test_auto_does_not_hide_damaged_files_behind_digits(tmp_path):
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
def test_an_unknown_name_or_split_is_refused_with_the_known_ones(tmp_path, name, split, expected):
    assert refusal(lambda: load(name, str(tmp_path), split)).startswith(expected)


def test_a_root_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "sets") in refusal(lambda: load("mnist", "~/sets", download=False))


def test_a_process_reads_a_set_once(tmp_path):
    """A sweep's worker runs many jobs on the same set."""
    fake = Fake("kmnist")
    fake.lay(tmp_path, "plain")
    first = load("kmnist", str(tmp_path), seed=0)
    for file in fake.known.files:
        (tmp_path / file).unlink()
    second = load("kmnist", str(tmp_path), seed=1, image_size=16)
    assert (first.sha256, first.train.seed, second.train.seed) == (second.sha256, 0, 1)


# ---- your own sets ---------------------------------------------------------------------------


def test_your_own_letters_need_a_configuration_alone(tmp_path, composed):
    train = saved(tmp_path / "letters.pt", pair(104, classes=26, first=1))
    test = saved(tmp_path / "letters-test.pt", pair(52, classes=26, first=1, seed=1))
    config = composed(
        *("data=files", f"data.train=[{train}]", f"data.test=[{test}]"),
        *("data.name=letters", "data.first_label=1", "data.val_size=26"),
    )
    data = instantiate(config.data)
    inputs = data.inputs
    assert data.name == "letters"
    assert (len(inputs.classes), inputs.in_channels, inputs.image_size) == (26, 1, 32)
    assert (data.train.count, data.val.count, data.test.count) == (78, 26, 52)
    assert data.test.labels.tolist() == [*range(26)] * 2
    expected = as_input(noise(52, 28, 28, seed=1), 32, inputs.mean, inputs.std)
    assert data.test.inputs.equal(expected)


@pytest.mark.parametrize("shape", [(20, 20), (48, 48), (3, 24, 30)])
def test_a_set_of_any_image_size_is_read(tmp_path, shape):
    train, test = pair(30, *shape), pair(20, *shape, seed=1)
    data = own(tmp_path, train, test)
    assert data.train.inputs.shape == (30, 3 if len(shape) == 3 else 1, 32, 32)
    assert data.train.inputs.equal(as_input(train[0], 32, data.inputs.mean, data.inputs.std))
    assert data.test.inputs.equal(as_input(test[0], 32, data.inputs.mean, data.inputs.std))
    assert data.test.labels.equal(test[1])
    assert data.inputs.classes == DIGITS


def own(tmp_path, train, test, **options):
    files = [[saved(tmp_path / "a.pt", train)], [saved(tmp_path / "b.pt", test)]]
    return load_files("own", files[0], files[1], **options)


def test_named_classes_keep_their_order_and_may_lack_examples(tmp_path):
    data = own(tmp_path, pair(9, classes=3), pair(9, classes=3), classes=["c", "a", 7, "b"])
    assert data.inputs.classes == ("c", "a", "7", "b")


@pytest.mark.parametrize(
    ("train_labels", "test_labels", "options", "expected"),
    [
        ((26, 0), (26, 0), {"classes": "abcdefghijklmnopqrstuvwxy"}, "to 24 .* 25 .*training"),
        ((10, 0), (11, 0), {}, "to 9 .* 10 among the test labels"),
        ((10, 1), (10, 0), {"first_label": 1}, "to 9 .* -1 among the test labels"),
        ((10, -1), (10, 0), {}, "to 8 .* -1 among the training labels"),
        ((2, 5000), (2, 5000), {}, "to 1000 .* 5001 among the training labels"),
        ((1, 3), (10, 0), {}, "several classes, found 3 alone among the training labels"),
    ],
)
def test_labels_out_of_range_are_refused_by_file_and_value(
    tmp_path, train_labels, test_labels, options, expected
):
    train, test = (
        (noise(40, 28, 28), cycle(40, *labels)) for labels in (train_labels, test_labels)
    )
    with pytest.raises(DataError, match=expected) as caught:
        own(tmp_path, train, test, **options)
    assert "\n" not in str(caught.value)
    assert f"{tmp_path / 'a.pt'}, {tmp_path / 'b.pt'}: expected " in str(caught.value)


def test_training_and_test_images_of_other_shapes_are_refused(tmp_path):
    message = refusal(lambda: own(tmp_path, pair(20, 28, 28), pair(20, 28, 20)))
    assert message.endswith("expected images of one shape, found [28, 28] and [28, 20]")
    assert str(tmp_path / "b.pt") in message


def test_more_channels_than_a_network_may_have_are_refused(tmp_path):
    message = refusal(lambda: own(tmp_path, pair(20, 100, 28, 28), pair(20, 100, 28, 28)))
    assert message == "inputs.in_channels: Input should be less than or equal to 64"
