"""Pictures of digits, of any kind, in the form that MNIST has; or one line that says why not."""

import io
import os
from pathlib import Path

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


def read(picture, path, **options):
    picture.save(path, **options)
    return read_picture(path)


def distance(a, b):
    return float((a.float() - b.float()).abs().mean())


@pytest.fixture
def reference(tmp_path):
    return read(drawn(), tmp_path / "reference.png")


def ink_box(image):
    rows, columns = (image > 0).any(1).nonzero(), (image > 0).any(0).nonzero()
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def mass_centre(image):
    mass, index = image.double(), torch.arange(28, dtype=torch.float64)
    down, across = (mass.sum(axis) @ index / mass.sum() for axis in (1, 0))
    return float(down), float(across)


# ---- Size and place, as the makers of MNIST set them -------------------------------------------


def test_a_digit_fills_a_box_of_20_pixels_around_its_centre_of_mass(reference):
    assert reference.dtype == torch.uint8
    assert reference.shape == (28, 28)
    assert max(ink_box(reference)) == 20
    assert mass_centre(reference) == pytest.approx((14, 14), abs=0.6)
    assert reference.max() == 255
    assert reference[0].max() == reference[:, 0].max() == 0


@pytest.mark.parametrize("scale", [0.15, 6])
def test_size_of_the_picture_does_not_matter(tmp_path, reference, scale):
    box = tuple(round(scale * v) for v in (60, 50, 80, 120))
    size = (round(200 * scale), round(240 * scale))
    image = read(drawn(size, box, round(14 * scale)), tmp_path / "scaled.png")
    assert distance(image, reference) < 8
    assert mass_centre(image) == pytest.approx((14, 14), abs=1)


@pytest.mark.parametrize("place", [(3, 3), (110, 110)])
def test_place_in_the_picture_does_not_matter(tmp_path, reference, place):
    assert distance(read(drawn(box=(*place, 80, 120)), tmp_path / "at.png"), reference) < 4


def test_a_digit_of_mnists_own_size_is_nearly_unchanged(tmp_path, reference):
    again = read(Image.fromarray(reference.numpy()), tmp_path / "again.png")
    assert distance(again, reference) < 5


# ---- Colours, papers and light ---------------------------------------------------------------


@pytest.mark.parametrize(("ink", "paper"), [(255, 0), (90, 130), (130, 90), (255, 251)])
def test_polarity_and_contrast_do_not_matter(tmp_path, reference, ink, paper):
    assert distance(read(drawn(ink=ink, paper=paper), tmp_path / "p.png"), reference) < 3


def test_red_on_green_of_the_same_brightness_is_read(tmp_path, reference):
    picture = drawn(ink=(200, 60, 60), paper=(55, 125, 70), mode="RGB")
    assert distance(read(picture, tmp_path / "c.png"), reference) < 3


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (255, 230, 0)])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255)])
def test_ink_of_any_colour_on_a_transparent_background_is_read(tmp_path, reference, ink, hidden):
    picture = Image.new("RGBA", (200, 240), (*hidden, 0))
    opacity = drawn(ink=255, paper=0)
    picture.paste(Image.new("RGB", picture.size, ink), mask=opacity)
    picture.putalpha(opacity)
    assert distance(read(picture, tmp_path / "alpha.png"), reference) < 6


def test_a_card_on_a_transparent_background_is_background_too(tmp_path, reference):
    card = drawn(mode="RGB", ink=(0, 0, 0), paper=(255, 255, 255))
    picture = Image.new("RGBA", (300, 340))
    picture.paste(card, (50, 50))
    assert distance(read(picture, tmp_path / "card.png"), reference) < 4


def sixteen_bits(picture):
    return Image.fromarray(np.asarray(picture).astype(np.uint16) * 40 + 1000)


FORMS = {
    "16 bits": ("png", sixteen_bits),
    "palette": ("png", lambda p: p.convert("RGB").quantize(16)),
    "GIF": ("gif", lambda p: p),
    "one bit": ("png", lambda p: p.convert("1")),
    "gray and alpha": ("png", lambda p: p.convert("LA")),
    "JPEG": ("jpg", lambda p: p.convert("RGB")),
    "CMYK": ("jpg", lambda p: p.convert("CMYK")),
    "WebP": ("webp", lambda p: p.convert("RGB")),
    "PGM": ("pgm", lambda p: p),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_format_does_not_matter(tmp_path, reference, form):
    suffix, convert = FORMS[form]
    assert distance(read(convert(drawn()), tmp_path / f"p.{suffix}"), reference) < 6


@pytest.mark.parametrize(("suffix", "turn"), [("jpg", 6), ("png", 8), ("tif", 3)])
def test_a_picture_taken_with_the_camera_turned_stands_upright(tmp_path, reference, suffix, turn):
    stored = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = drawn().transpose(stored.get(turn, Image.Transpose.ROTATE_180))
    assert distance(read(picture, tmp_path / f"t.{suffix}", exif=exif), reference) < 6


def lit(light, noise, lines):
    """A pen's 7 on paper, 480x640, under a lamp and through a lens."""
    colours = np.asarray(
        drawn((480, 640), (140, 160, 200, 300), 14, (40, 45, 90), (248, 240, 205), "RGB")
    ).astype(float)
    if lines:
        colours[::40] = np.minimum(colours[::40], (150, 180, 220))
    colours = colours * light[..., None]
    colours += np.random.default_rng(0).normal(0, noise, colours.shape)
    photo = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    return photo.filter(ImageFilter.GaussianBlur(1))


def test_a_photo_of_lined_paper_in_uneven_light_gives_the_digit_alone(tmp_path):
    clean = read(lit(np.ones((640, 480)), 0, lines=False), tmp_path / "clean.png")
    light = np.linspace(0.4, 1, 480) * np.linspace(1, 0.8, 640)[:, None]
    assert distance(read(lit(light, 8, lines=True), tmp_path / "photo.jpg"), clean) < 8


def test_specks_of_dust_do_not_move_the_box(tmp_path, reference):
    picture = drawn()
    for place in ((5, 5), (190, 8), (10, 230), (180, 200)):
        picture.paste(0, (*place, place[0] + 3, place[1] + 3))
    assert distance(read(picture, tmp_path / "dust.png"), reference) < 2


# ---- Refused pictures -------------------------------------------------------------------------


def refusal(path):
    with pytest.raises(DataError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert message.isprintable()
    assert path.name.split("\n")[0] in message
    return message


def test_a_path_that_is_no_file_is_refused_by_name(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "two\nlines.png")


def test_a_file_that_is_no_picture_gets_the_list_of_formats(tmp_path):
    path = tmp_path / "notes.png"
    for content in (b"", b"a seven\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        path.write_bytes(content)
        assert "PNG, JPEG" in refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "pgm"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    drawn().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read as a picture" in refusal(path)


@pytest.mark.parametrize("size", [(1, 1), (200, 100)])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_picture_of_one_colour_is_refused_as_blank(tmp_path, size, colour):
    path = tmp_path / "blank.png"
    Image.new("L", size, colour).save(path)
    assert "blank" in refusal(path)
    Image.new("RGBA", size, (colour, 0, 0, 0)).save(path)
    assert "blank" in refusal(path)


def test_a_photo_of_an_empty_sheet_is_refused_as_blank(tmp_path):
    noise = np.random.default_rng(0).normal(180, 6, (300, 200)).clip(0, 255)
    path = tmp_path / "sheet.png"
    Image.fromarray(noise.astype(np.uint8)).save(path)
    assert "blank" in refusal(path)


def test_a_digit_of_three_by_five_pixels_is_read(tmp_path):
    seven = np.zeros((7, 5), np.uint8)
    seven[1, 1:4] = seven[2:6, 3] = 255
    image = read(Image.fromarray(seven), tmp_path / "tiny.png")
    assert max(ink_box(image)) == 20


def test_a_picture_beyond_pillows_limit_is_refused(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    assert "exceeds limit of 89478485 pixels" in refusal(path)


def samples():
    made = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        buffer = io.BytesIO()
        drawn((40, 48), (12, 10, 16, 24), 4).convert("RGB").save(buffer, kind)
        made.append(buffer.getvalue())
    return made


@given(
    content=st.binary(max_size=300)
    | st.builds(
        lambda whole, at, new, cut: (whole[:at] + new + whole[at + len(new) :])[: len(whole) - cut],
        st.sampled_from(samples()),
        st.integers(0, 200),
        st.binary(min_size=1, max_size=6),
        st.integers(0, 40) | st.just(0),
    )
)
def test_damaged_bytes_give_a_digit_or_one_line(tmp_path, content):
    path = tmp_path / "fuzzed"
    path.write_bytes(content)
    message, image = "", None
    try:
        image = read_picture(path)
    except DataError as error:
        message = str(error)
    assert message.isprintable()
    assert image is None or (image.shape == (28, 28) and image.max() > 0)


@pytest.mark.slow
def test_mnists_digits_are_recovered_from_pictures_of_any_size_and_place(tmp_path):
    root = Path(os.environ.get("LENET_DATA", ""))
    names = ("t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte")
    found = [root / name for name in names if (root / name).is_file()]
    if not found:
        pytest.skip("LENET_DATA names no folder with MNIST's test images")
    random = np.random.default_rng(0)
    distances = []
    for original in read_idx(found[0])[:200]:
        side = int(random.integers(40, 600))
        digit = Image.fromarray(original.numpy()).resize((side, side), Image.Resampling.BICUBIC)
        size = [int(side * random.uniform(1, 2)) for _ in range(2)]
        picture = Image.new("L", (size[0], size[1]))
        picture.paste(digit, tuple(int(random.integers(0, s - side + 1)) for s in size))
        if random.random() < 0.5:
            picture = picture.point(lambda v: 255 - v)
        distances.append(distance(read(picture, tmp_path / "digit.png"), original))
    # A shift of every digit by one pixel would be 20 or so.
    assert np.mean(distances) < 8
    assert np.max(distances) < 45


# ---- Drawings and bytes -----------------------------------------------------------------------


def test_a_drawing_is_read_like_its_picture(tmp_path):
    picture = drawn()
    picture.save(tmp_path / "seven.png")
    ink = 1 - np.asarray(picture, np.float32) / 255
    apart = read_drawing(ink).int() - read_picture(tmp_path / "seven.png").int()
    assert apart.abs().max() <= 2  # the level of a picture's paper is estimated


@pytest.mark.parametrize("ink", [np.zeros((280, 280), np.float32), np.zeros((0, 0), np.float32)])
def test_a_drawing_without_ink_is_refused(ink):
    with pytest.raises(DataError, match=r"^drawing: expected a digit, found none$"):
        read_drawing(ink)


def test_a_single_dot_is_centred():
    ink = np.zeros((280, 280), np.float32)
    ink[:20, 270:] = 1
    rows, columns = read_drawing(ink).nonzero().T
    assert (rows.min(), rows.max()) == (11, 16)
    assert len(columns.unique()) == 3
    assert columns.float().mean() == pytest.approx(14, abs=0.6)


def test_a_picture_in_memory_is_read_like_its_file(tmp_path):
    for name in ("seven.png", "seven.jpg"):
        drawn().save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert torch.equal(read_picture_bytes(content, "x"), read_picture(tmp_path / name))
    with pytest.raises(DataError, match=r"^what\\nit is: expected a picture .*none of these$"):
        read_picture_bytes(b"not a picture", "what\nit is")
