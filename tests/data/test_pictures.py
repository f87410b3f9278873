"""Pictures of digits, of any kind, in the form that MNIST has; or one line that says why not."""

import io
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from lenet.data.errors import DataError
from lenet.data.image_files import read_idx
from lenet.data.pictures import read_drawing, read_picture, read_picture_bytes
from tests.support.drawings import drawn


def stored(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read(picture, kind="PNG", **options):
    return read_picture_bytes(stored(picture, kind, **options), "picture").image


REFERENCE = read(drawn())


def distance(a, b=REFERENCE):
    return float((a.float() - b.float()).abs().mean())


def ink_box(image):
    rows, columns = (image > 0).any(1).nonzero(), (image > 0).any(0).nonzero()
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def mass_centre(image):
    mass, index = image.double(), torch.arange(28, dtype=torch.float64)
    down, across = (mass.sum(axis) @ index / mass.sum() for axis in (1, 0))
    return float(down), float(across)


# ---- Size and place, as the makers of MNIST set them -------------------------------------------


def test_a_digit_fills_a_box_of_20_pixels_around_its_centre_of_mass():
    assert REFERENCE.dtype == torch.uint8
    assert REFERENCE.shape == (28, 28)
    assert max(ink_box(REFERENCE)) == 20
    assert mass_centre(REFERENCE) == pytest.approx((14, 14), abs=0.6)
    assert REFERENCE.max() == 255
    assert REFERENCE[0].max() == REFERENCE[:, 0].max() == 0


@pytest.mark.parametrize("scale", [0.15, 6])
def test_size_of_the_picture_does_not_matter(scale):
    box = tuple(round(scale * v) for v in (60, 50, 80, 120))
    image = read(drawn((round(200 * scale), round(240 * scale)), box, round(14 * scale)))
    assert distance(image) < 8
    assert mass_centre(image) == pytest.approx((14, 14), abs=1)


@pytest.mark.parametrize("place", [(3, 3), (110, 110)])
def test_place_in_the_picture_does_not_matter(place):
    assert distance(read(drawn(box=(*place, 80, 120)))) < 4


def test_a_digit_of_mnists_own_size_is_nearly_unchanged():
    assert distance(read(Image.fromarray(REFERENCE.numpy()))) < 5


def test_a_close_crop_may_leave_ink_on_the_border():
    assert distance(read(drawn().crop((60, 50, 140, 170)))) < 2


def test_a_digit_of_three_by_five_pixels_is_read():
    seven = np.zeros((7, 5), np.uint8)
    seven[1, 1:4] = seven[2:6, 3] = 255
    assert max(ink_box(read(Image.fromarray(seven)))) == 20


# ---- Colours, papers and light ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("ink", "paper"),
    [(255, 0), (90, 130), (130, 90), (255, 251), ((200, 60, 60), (55, 125, 70))],
)
def test_colours_and_polarity_do_not_matter(ink, paper):
    mode = "L" if isinstance(ink, int) else "RGB"  # that red and that green are equally bright
    assert distance(read(drawn(ink=ink, paper=paper, mode=mode))) < 3


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (255, 230, 0)])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255)])
def test_ink_of_any_colour_on_a_transparent_background_is_read(ink, hidden):
    picture = Image.new("RGBA", (200, 240), (*hidden, 0))
    opacity = drawn(ink=255, paper=0)
    picture.paste(Image.new("RGB", picture.size, ink), mask=opacity)
    picture.putalpha(opacity)
    assert distance(read(picture)) < 6


def test_a_card_on_a_transparent_background_is_background_too():
    picture = Image.new("RGBA", (300, 340))
    picture.paste(drawn(mode="RGB", ink=(0, 0, 0), paper=(255, 255, 255)), (50, 50))
    assert distance(read(picture)) < 4


FORMS = {
    "16 bits": ("PNG", lambda p: Image.fromarray(np.asarray(p).astype(np.uint16) * 40 + 1000)),
    "palette": ("PNG", lambda p: p.convert("RGB").quantize(16)),
    "GIF": ("GIF", lambda p: p),
    "one bit": ("PNG", lambda p: p.convert("1")),
    "gray and alpha": ("PNG", lambda p: p.convert("LA")),
    "JPEG": ("JPEG", lambda p: p.convert("RGB")),
    "CMYK": ("JPEG", lambda p: p.convert("CMYK")),
    "WebP": ("WEBP", lambda p: p.convert("RGB")),
    "PGM": ("PPM", lambda p: p),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_format_does_not_matter(form):
    kind, convert = FORMS[form]
    assert distance(read(convert(drawn()), kind)) < 6


@pytest.mark.parametrize(
    ("kind", "turn", "transpose"),
    [
        ("JPEG", 6, Image.Transpose.ROTATE_90),
        ("PNG", 8, Image.Transpose.ROTATE_270),
        ("TIFF", 3, Image.Transpose.ROTATE_180),
    ],
)
def test_a_picture_taken_with_the_camera_turned_stands_upright(kind, turn, transpose):
    exif = Image.Exif()
    exif[0x0112] = turn
    assert distance(read(drawn().transpose(transpose), kind, exif=exif)) < 6


def photographed(light, noise=0.0, lines=False):
    """A pen's 7 on paper, 480x640, under a lamp and through a lens."""
    colours = np.asarray(
        drawn((480, 640), (140, 160, 200, 300), 14, (40, 45, 90), (248, 240, 205), "RGB")
    ).astype(float)
    if lines:
        colours[::40] = np.minimum(colours[::40], (150, 180, 220))
    colours = colours * light + np.random.default_rng(0).normal(0, noise, colours.shape)
    photo = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    return photo.filter(ImageFilter.GaussianBlur(1))


def test_a_photo_of_lined_paper_in_uneven_light_gives_the_digit_alone():
    light = (np.linspace(0.4, 1, 480) * np.linspace(1, 0.8, 640)[:, None])[..., None]
    photo = read(photographed(light, noise=8, lines=True), "JPEG")
    assert distance(photo, read(photographed(1))) < 8


def test_specks_of_dust_do_not_move_the_box():
    picture = drawn()
    for place in ((5, 5), (190, 8), (10, 230), (180, 200)):
        picture.paste(0, (*place, place[0] + 3, place[1] + 3))
    assert distance(read(picture)) < 2


@pytest.mark.slow
def test_mnists_digits_are_recovered_from_pictures_of_any_size_and_place(mnist_root):
    random = np.random.default_rng(0)
    distances = []
    for original in read_idx(mnist_root / "t10k-images-idx3-ubyte.gz")[:200]:
        side = int(random.integers(40, 600))
        digit = Image.fromarray(original.numpy()).resize((side, side), Image.Resampling.BICUBIC)
        size = [int(side * random.uniform(1, 2)) for _ in range(2)]
        picture = Image.new("L", (size[0], size[1]))
        picture.paste(digit, tuple(int(random.integers(0, s - side + 1)) for s in size))
        if random.random() < 0.5:
            picture = picture.point(lambda v: 255 - v)
        distances.append(distance(read(picture), original))
    # A shift of every digit by one pixel would be 20 or so.
    assert np.mean(distances) < 8
    assert np.max(distances) < 45


# ---- Refused pictures -------------------------------------------------------------------------


def refusal(content):
    with pytest.raises(DataError, match=r"^what\\nit is: ") as caught:
        read_picture_bytes(content, "what\nit is")
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"a seven\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_bytes_of_no_picture_get_the_list_of_formats(content):
    assert "PNG, JPEG" in refusal(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_truncated_picture_is_refused(kind):
    content = stored(drawn(), kind)
    assert "cannot be read as a picture" in refusal(content[: len(content) // 2])


def test_a_picture_beyond_pillows_limit_is_refused():
    content = stored(Image.new("1", (10_000, 9_000)))
    assert "exceeds limit of 89478485 pixels" in refusal(content)


def test_a_picture_without_ink_is_refused_as_blank():
    empty_sheet = np.random.default_rng(0).normal(180, 6, (300, 200)).clip(0, 255)
    for picture in (
        Image.new("L", (1, 1), 255),
        Image.new("L", (200, 100)),
        Image.new("RGBA", (200, 100), (255, 0, 0, 0)),
        Image.fromarray(empty_sheet.astype(np.uint8)),
    ):
        assert "blank" in refusal(stored(picture))


SAMPLES = [
    stored(drawn((40, 48), (12, 10, 16, 24), 4).convert("RGB"), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
]


@given(
    whole=st.sampled_from(SAMPLES),
    at=st.integers(0, 200),
    new=st.binary(min_size=1, max_size=6),
    cut=st.integers(0, 40) | st.just(0),
)
def test_damaged_bytes_give_a_digit_or_one_line(whole, at, new, cut):
    content = (whole[:at] + new + whole[at + len(new) :])[: len(whole) - cut]
    try:
        image = read_picture_bytes(content, "picture").image
    except DataError as error:
        assert str(error).isprintable()
    else:
        assert image.shape == (28, 28)
        assert image.max() > 0


def test_a_picture_in_a_file_is_read_and_anything_else_is_refused_by_name(tmp_path):
    path = tmp_path / "seven.png"
    drawn().save(path)
    assert torch.equal(read_picture(path).image, REFERENCE)
    os.mkfifo(tmp_path / "pipe.png")
    for other, reason in (
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "expected a file, found a folder"),
        (tmp_path / "pipe.png", "expected a file, found a device or pipe"),
    ):
        with pytest.raises(DataError) as caught:
            read_picture(other)
        assert str(caught.value) == f"{other}: {reason}"


# ---- Drawings --------------------------------------------------------------------------------


def test_a_drawing_is_read_like_its_picture():
    ink = 1 - np.asarray(drawn(), np.float32) / 255
    # The level of a picture's paper is estimated.
    assert (read_drawing(ink).image.int() - REFERENCE.int()).abs().max() <= 2


@pytest.mark.parametrize("ink", [np.zeros((280, 280), np.float32), np.zeros((0, 0), np.float32)])
def test_a_drawing_without_ink_is_refused(ink):
    with pytest.raises(DataError, match=r"^drawing: expected a digit, found none$"):
        read_drawing(ink)


def test_a_single_dot_is_centred():
    ink = np.zeros((280, 280), np.float32)
    ink[:20, 270:] = 1
    rows, columns = read_drawing(ink).image.nonzero().T
    assert (rows.min(), rows.max()) == (11, 16)
    assert len(columns.unique()) == 3
    assert columns.float().mean() == pytest.approx(14, abs=0.6)
