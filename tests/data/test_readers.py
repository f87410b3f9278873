"""Sets in the files that people have, each made by the library that people make it with."""

import gzip
import io
import json
import os
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torchvision.datasets import ImageFolder

from lenet.data.sets import load_files
from tests.support.fake_sets import refusal

RANDOM = np.random.default_rng(0)
LABELS = np.arange(40) % 4
GREY = RANDOM.integers(0, 256, (40, 12, 12), np.uint8)
COLOURS = RANDOM.integers(0, 256, (40, 12, 12, 3), np.uint8)
NAMES = np.array(["cat", "dog", "emu", "fox"])


def is_set(data, images, labels, part="train"):
    """Whether a part holds these images, without the border, and these labels."""
    batches = getattr(data, part)
    images = torch.from_numpy(images)
    images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
    inner = batches.images[:, :, 10:22, 10:22]
    return inner.equal(images) and batches.labels.tolist() == list(labels)


def read(train, test=None, **options):
    if test is None and "test_size" not in options:
        test = train
    return load_files("own", train, test, **options)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def save_pictures(folder, images, labels, kind="png"):
    """A folder for each class, as torchvision's ImageFolder reads it."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03}.{kind}")
    return str(folder)


# ---- Folders of pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("images", [GREY, COLOURS], ids=["grey", "colours"])
def test_a_folder_of_pictures_for_each_class_is_what_torchvision_reads(tmp_path, images):
    folder = save_pictures(tmp_path / "all", images, NAMES[LABELS])
    (tmp_path / "all" / "cat" / "notes.txt").write_text("no picture")
    theirs = ImageFolder(folder)
    data = read(folder)
    assert data.inputs.classes == tuple(theirs.classes) == tuple(NAMES)
    order = np.argsort(LABELS, kind="stable")
    assert is_set(data, images[order], theirs.targets)


def test_a_folder_may_be_divided_into_train_and_test(tmp_path):
    save_pictures(tmp_path / "train", GREY[:30], LABELS[:30])
    save_pictures(tmp_path / "val", GREY[:4], LABELS[:4])
    save_pictures(tmp_path / "test", GREY[30:], LABELS[30:])
    data = load_files("own", str(tmp_path))
    assert (data.train.count, data.test.count) == (30, 10)
    assert data.inputs.classes == tuple("0123")
    assert data.test.labels.tolist() == sorted(LABELS[30:])


def test_classes_that_are_numbers_are_in_the_order_of_their_values(tmp_path):
    labels = np.arange(24) % 12
    data = read(save_pictures(tmp_path, GREY[:24], labels))
    assert data.inputs.classes == tuple(map(str, range(12)))
    assert data.train.labels.tolist() == sorted(labels, key=str)


def test_pictures_of_several_sizes_become_squares_of_the_image_size(tmp_path):
    for name, size in (("a", (50, 40)), ("b", (20, 30))):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", size, (200, 0, 10 * number)).save(tmp_path / name / f"{number}.jpg")
    data = read(str(tmp_path), image_size=24)
    assert data.train.images.shape == (6, 3, 24, 24)
    assert (data.train.images[:, 0].float() - 200).abs().max() < 8


def test_a_damaged_picture_is_named(tmp_path):
    save_pictures(tmp_path, GREY[:8], LABELS[:8])
    (tmp_path / "3" / "bad.png").write_bytes(b"GIF89a")
    message = refusal(lambda: read(str(tmp_path)))
    assert message.startswith(f"{tmp_path / '3' / 'bad.png'}: ")


# ---- Tables ------------------------------------------------------------------------------------


def frame(labels, named=True):
    pixels = pd.DataFrame(GREY.reshape(40, -1)).add_prefix("pixel")
    pixels.insert(0, "label" if named else "what it shows", labels)
    return pixels


@pytest.mark.parametrize(
    ("table", "how"),
    [
        (frame(LABELS), {}),  # Kaggle's
        (frame(LABELS), {"header": False}),  # MNIST in CSV
        (frame(LABELS, named=False), {}),
        (frame(LABELS).set_axis(["label", *range(144)], axis=1), {}),
        (frame(LABELS).set_axis(range(145), axis=1), {}),
        (frame(LABELS).astype(float), {"compression": "gzip"}),
    ],
    ids=["Kaggle", "no header", "another name", "counted", "all counted", "floats, packed"],
)
def test_a_table_of_pixels_is_read_with_and_without_a_header(tmp_path, table, how):
    path = tmp_path / ("set.csv.gz" if "compression" in how else "set.csv")
    table.to_csv(path, index=False, **how)
    assert is_set(read(str(path)), GREY, LABELS)


def test_a_table_may_name_its_classes(tmp_path):
    frame(NAMES[LABELS]).to_csv(tmp_path / "set.csv", index=False)
    data = read(str(tmp_path / "set.csv"))
    assert data.inputs.classes == tuple(NAMES)
    assert is_set(data, GREY, LABELS)
    frame(NAMES[LABELS]).to_csv(tmp_path / "bare.csv", index=False, header=False)
    assert is_set(read(str(tmp_path / "bare.csv")), GREY, LABELS)
    data = read(str(tmp_path / "set.csv"), classes=["fox", "dog", "cat", "emu"])
    assert data.train.labels.tolist()[:4] == [2, 1, 3, 0]


def test_kaggles_table_without_labels_is_refused_as_a_training_set(tmp_path):
    frame(LABELS).drop(columns="label").to_csv(tmp_path / "test.csv", index=False)
    message = refusal(lambda: read(str(tmp_path / "test.csv"), test_size=0.2))
    assert message.startswith(f"{tmp_path / 'test.csv'}: expected images and labels, found images")


def test_other_tables_are_refused_by_what_is_wrong_with_them(tmp_path):
    path = tmp_path / "set.csv"
    for table, words in (
        (frame(LABELS).drop(columns="pixel3"), "found 143 columns beside the label"),
        (frame(LABELS).assign(pixel7="x"), "found text in column pixel7"),
        (pd.DataFrame({"id": ["a.png"], "label": [1]}), "found text in column id"),
    ):
        table.to_csv(path, index=False)
        message = refusal(lambda: read(str(path)))
        assert words in message
        assert "numpy.savez('set.npz', images=images, labels=labels) makes a file" in message
    path.write_text("")
    assert "cannot be read as a table" in refusal(lambda: read(str(path)))


def hugging_face(images, labels, column="image", names=None):
    """A table as `datasets` writes it."""
    rows = [{"bytes": png(image), "path": f"{k}.png"} for k, image in enumerate(images)]
    table = pa.table({column: rows, "label": labels})
    feature = {"names": names, "_type": "ClassLabel"} if names else {"_type": "Value"}
    about = {"info": {"features": {column: {"_type": "Image"}, "label": feature}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(about)})


@pytest.mark.parametrize(("images", "column"), [(GREY, "image"), (COLOURS, "img")])
def test_parquet_of_hugging_face_is_read_with_its_class_names(tmp_path, images, column):
    path = tmp_path / "set.parquet"
    parquet.write_table(hugging_face(images, LABELS, column, list(NAMES)), path)
    data = read(str(path))
    assert data.inputs.classes == tuple(NAMES)
    assert is_set(data, images, LABELS)


def test_a_folder_of_parquet_is_divided_by_the_names_of_its_files(tmp_path):
    (tmp_path / "data").mkdir()
    for name, part in (
        ("train-00000-of-00002", slice(0, 20)),
        ("train-00001-of-00002", slice(20, 30)),
        ("validation-00000-of-00001", slice(0, 5)),
        ("test-00000-of-00001", slice(30, 40)),
    ):
        table = hugging_face(GREY[part], LABELS[part], names=list(NAMES))
        parquet.write_table(table, tmp_path / "data" / f"{name}.parquet")
    data = load_files("own", str(tmp_path))
    assert data.inputs.classes == tuple(NAMES)
    assert is_set(data, GREY[:30], LABELS[:30])
    assert is_set(data, GREY[30:], LABELS[30:], "test")


def test_parquet_without_pictures_is_refused_by_its_columns(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    message = refusal(lambda: read(str(tmp_path / "a.parquet")))
    assert "expected the columns image and label, found text, label" in message


# ---- Arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
    ids=["Keras", "MedMNIST"],
)
def test_an_npz_holds_both_parts_of_a_set(tmp_path, names):
    arrays = (GREY[:30], LABELS[:30], GREY[30:], LABELS[30:, None])
    np.savez_compressed(tmp_path / "set.npz", **dict(zip(names, arrays, strict=True)))
    data = load_files("own", str(tmp_path / "set.npz"))
    assert is_set(data, GREY[:30], LABELS[:30])
    assert is_set(data, GREY[30:], LABELS[30:], "test")


@pytest.mark.parametrize(
    "images",
    [COLOURS, COLOURS.astype(np.float32), COLOURS.astype(np.int64), COLOURS.astype(">u2")],
    ids=["bytes", "floats", "integers", "big-endian"],
)
def test_two_npy_are_images_and_labels_with_colours_last(tmp_path, images):
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", LABELS[:, None])
    data = read([str(tmp_path / "x.npy"), str(tmp_path / "y.npy")])
    assert is_set(data, COLOURS, LABELS)


def test_rows_of_pixels_are_square_images(tmp_path):
    np.savez(tmp_path / "set.npz", GREY.reshape(40, -1), LABELS)
    assert is_set(read(str(tmp_path / "set.npz")), GREY, LABELS)


def test_the_file_that_a_refusal_advises_works(tmp_path, monkeypatch):
    """The advice, typed as it is printed."""
    monkeypatch.chdir(tmp_path)
    frame(LABELS).drop(columns="pixel3").to_csv("bad.csv", index=False)
    message = refusal(lambda: read("bad.csv"))
    call = message[message.index("numpy.savez(") : message.index(" makes a file")]
    exec(call, {"numpy": np, "images": GREY, "labels": LABELS})
    assert is_set(read("set.npz"), GREY, LABELS)


def test_advice_for_numbers_from_0_to_1_and_for_rows_that_mark_a_class_works(tmp_path):
    path = tmp_path / "set.npz"
    images, labels = GREY / 255, np.eye(4)[LABELS]
    np.savez(path, images=images, labels=LABELS)
    assert "(255 * images).round() makes bytes" in refusal(lambda: read(str(path)))
    images = (255 * images).round()
    np.savez(path, images=images, labels=labels)
    assert "labels.argmax(1) for rows" in refusal(lambda: read(str(path)))
    np.savez(path, images=images, labels=labels.argmax(1))
    assert is_set(read(str(path)), GREY, LABELS)


def test_a_pickle_in_an_array_is_not_run(tmp_path):
    np.save(tmp_path / "x.npy", np.array([os.system], dtype=object))
    message = refusal(lambda: read(str(tmp_path / "x.npy")))
    assert "cannot be read as an array of numpy (Object arrays cannot be loaded" in message


# ---- CIFAR's batches ---------------------------------------------------------------------------

PLANES = RANDOM.integers(0, 256, (40, 3072), np.uint8)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", [bytes, str])
def test_a_folder_of_cifars_batches_is_read_with_its_names(tmp_path, protocol, keys):
    def dump(name, content):
        content = {k if keys is str else k.encode(): v for k, v in content.items()}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol))

    for number, part in enumerate((slice(0, 20), slice(20, 30)), 1):
        dump(f"data_batch_{number}", {"data": PLANES[part], "labels": LABELS[part].tolist()})
    dump("test_batch", {"data": PLANES[30:], "labels": LABELS[30:].tolist()})
    dump("batches.meta", {"label_names": NAMES.tolist()})
    data = load_files("own", str(tmp_path))
    assert data.inputs.classes == tuple(NAMES)
    assert data.train.images.flatten(1).equal(torch.from_numpy(PLANES[:30]))
    assert data.test.images.flatten(1).equal(torch.from_numpy(PLANES[30:]))
    assert data.test.labels.tolist() == LABELS[30:].tolist()


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_batch_is_named_and_not_run(tmp_path, protocol):
    bomb = {"data": PLANES, "labels": LABELS.tolist(), "more": Bomb(tmp_path / "executed")}
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(bomb, protocol))
    message = refusal(lambda: read(str(path)))
    assert "it needs posix.system; nothing of it was run" in message
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("array", [np.array([print]), np.zeros(3072), "text", None], ids=repr)
def test_a_batch_of_anything_but_bytes_is_refused(tmp_path, array):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": array, "labels": [1]}, 4))
    assert "cannot be read as CIFAR's batch" in refusal(lambda: read(str(tmp_path / "test_batch")))


# ---- Parts of a set ----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [(0.25, 10), (7, 7)])
def test_one_file_is_split_the_same_for_every_seed(tmp_path, size, count):
    path = str(tmp_path / "set.npz")
    np.savez(path, images=GREY, labels=LABELS)
    first, other = (load_files("own", path, test_size=size, seed=seed) for seed in (0, 1))
    assert first.test.count == count
    assert first.train.count == 40 - count
    assert first.test.images.equal(other.test.images)
    both = torch.cat([first.train.images, first.test.images])
    assert sorted(both.flatten(1).tolist()) == sorted(read(path).train.images.flatten(1).tolist())


def test_a_set_without_test_images_says_how_to_get_them(tmp_path):
    """Both advices are followed as they are printed."""
    path = str(tmp_path / "set.npz")
    np.savez(path, images=GREY, labels=LABELS)
    message = refusal(lambda: load_files("own", path))
    assert message == (
        f"{path}: expected test images, found none; data.test_size=0.2 takes a fifth of the "
        "training images, data.test=PATH others"
    )
    assert load_files("own", path, test_size=0.2).test.count == 8
    assert load_files("own", path, test=path).test.count == 40
    message = refusal(lambda: load_files("own", path, path, test_size=0.2))
    assert message.endswith("has test images; leave it out")
    for size in (0, 40):
        message = refusal(lambda size=size: load_files("own", path, test_size=size))
        assert "expected 1 to 39 images or a part below 1" in message


def test_a_class_that_only_the_test_set_has_is_refused_by_its_name(tmp_path):
    train = save_pictures(tmp_path / "a", GREY[:8], NAMES[:3].repeat(3)[:8])
    test = save_pictures(tmp_path / "b", GREY[:8], NAMES[LABELS[:8]])
    message = refusal(lambda: read(train, test))
    assert "expected the classes cat, dog, emu, found fox; data.classes=[...] names all" in message
    data = read(train, test, classes=list(NAMES))
    assert data.inputs.classes == tuple(NAMES)


def test_several_files_are_joined(tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "b.csv"]
    np.savez(paths[0], images=GREY.reshape(40, -1), labels=LABELS)
    frame(LABELS).to_csv(paths[1], index=False)
    data = read([str(path) for path in paths])
    assert is_set(data, np.concatenate([GREY, GREY]), [*LABELS, *LABELS])


@pytest.mark.parametrize("name", ["none.csv", "none.npz", "none"])
def test_a_path_where_nothing_lies_is_refused_by_its_name(tmp_path, name):
    message = refusal(lambda: read(str(tmp_path / name)))
    assert message == f"{tmp_path / name}: no such file or folder"


def test_a_folder_without_a_set_is_refused_and_works_as_advised(tmp_path):
    (tmp_path / "a.png").write_bytes(png(GREY[0]))
    message = refusal(lambda: read(str(tmp_path)))
    assert message.startswith(f"{tmp_path}: expected a folder of pictures for each class")
    assert "CLASS/NAME.png in it works" in message
    save_pictures(tmp_path, GREY, LABELS)
    assert read(str(tmp_path)).train.count == 40


def test_idx_and_pt_are_read_too(tmp_path):
    images, labels = tmp_path / "images-idx3-ubyte.gz", tmp_path / "labels-idx1-ubyte"
    images.write_bytes(
        gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 12, 0, 0, 0, 12]) + GREY.tobytes())
    )
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 40]) + LABELS.astype(np.uint8).tobytes())
    torch.save((torch.from_numpy(GREY), torch.from_numpy(LABELS)), tmp_path / "set.pt")
    data = read([str(images), str(labels)], str(tmp_path / "set.pt"))
    assert is_set(data, GREY, LABELS)
    assert is_set(data, GREY, LABELS, "test")
