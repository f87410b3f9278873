"""The form that a set's pictures have, and pictures of all kinds in that form."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn.functional import pad

from lenet.data.form import MNIST, Form, form_of
from lenet.data.pictures import read_drawing, read_picture_bytes
from lenet.data.sources import embedded_digits, find
from tests.support.drawings import drawn

DIGITS = embedded_digits().train[0]


def png(image):
    """The file of an image (H, W) or (C, H, W), or of a picture."""
    if isinstance(image, torch.Tensor):
        array = image.permute(1, 2, 0) if image.ndim == 3 else image
        image = Image.fromarray(array.numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def colours():
    strength = torch.rand(len(DIGITS), 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return (DIGITS[:, None] * strength).byte()


def noisy():
    noise = torch.randint(60, DIGITS.shape, generator=torch.Generator().manual_seed(0))
    return (DIGITS.int() // 2 + noise).byte()


SETS = {
    "light": (DIGITS, Form(28, 28, 0, 20, "box")),
    "dark": (255 - DIGITS, Form(28, 28, 255, 20, "box")),
    "grey ground": (250 - (DIGITS * 0.8).byte(), Form(28, 28, 255, 20, "box")),
    "small": (DIGITS[:, 3:25, 3:25].contiguous(), Form(22, 22, 0, 20, "box")),
    "not square": (pad(DIGITS, (0, 12, 0, 4)), Form(32, 40, 0, 20, "box")),
    "cut off": (DIGITS[:, 8:20, 8:20].contiguous(), Form(12, 12, None)),
    "noisy": (noisy(), Form(28, 28, None)),
    "colours": (colours(), Form(28, 28, None)),
}


@pytest.mark.parametrize(("images", "form"), SETS.values(), ids=list(SETS))
def test_the_form_follows_from_the_images(images, form):
    assert form_of(images) == form


@pytest.mark.parametrize(("images", "form"), SETS.values(), ids=list(SETS))
def test_the_pictures_of_a_set_stay_as_they_are(images, form):
    for image in images[:50]:
        found = read_picture_bytes(
            png(image), "picture", form, channels=3 if image.ndim == 3 else 1
        )
        assert torch.equal(found.image, image)
        assert not found.remark


def test_mnist_has_the_form_that_its_makers_describe(mnist_root):
    raw = find("mnist", mnist_root)
    assert raw.form == MNIST
    inverted = form_of(255 - raw.train[0])
    assert inverted == Form(28, 28, 255, 20, "mass")


def test_a_photo_gets_the_ground_the_size_and_the_place_of_the_set():
    reference = read_picture_bytes(png(drawn()), "picture").image
    for picture in (drawn(), ImageOps.invert(drawn())):
        for name in ("light", "dark", "not square"):
            form = SETS[name][1]
            image = read_picture_bytes(png(picture), "picture", form).image
            assert image.shape == (form.height, form.width)
            ink = image if form.ground == 0 else 255 - image
            rows, columns = ink.nonzero().T
            assert max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) == 19
            assert abs(int(rows.max() + rows.min()) - (form.height - 1)) <= 1
            assert abs(int(ink.sum()) - int(reference.sum())) < 0.02 * int(reference.sum())


def test_a_picture_of_a_set_without_a_plain_ground_is_changed_in_size_alone():
    picture = Image.fromarray(np.full((56, 56), 100, np.uint8))
    image = read_picture_bytes(png(picture), "picture", Form(28, 28, None)).image
    assert torch.equal(image, torch.full((28, 28), 100, dtype=torch.uint8))


def test_a_drawing_has_the_sets_ground_too():
    ink = (255 - np.asarray(drawn((240, 240))).astype(np.float32)) / 255
    light, dark = (read_drawing(ink, SETS[name][1]).image for name in ("light", "dark"))
    assert torch.equal(light, 255 - dark)
    assert read_drawing(ink, Form(64, 64, None)).image.shape == (64, 64)


@pytest.mark.parametrize(
    "second", [(190, 0), (0, 150)], ids=["side by side", "one above the other"]
)
def test_several_digits_in_one_picture_get_a_remark(second):
    two = Image.new("L", (400, 420), 255)
    for place in ((0, 0), second):
        two.paste(drawn(), place)
    assert "several digits" in read_picture_bytes(png(two), "picture").remark
    assert not read_picture_bytes(png(drawn()), "picture").remark


def test_hardly_a_digit_of_mnist_is_taken_for_several(mnist_root):
    images = find("mnist", mnist_root).test[0][:1000]
    drawings = (image.numpy().astype(np.float32) / 255 for image in images)
    assert sum(bool(read_drawing(ink).remark) for ink in drawings) <= 3
