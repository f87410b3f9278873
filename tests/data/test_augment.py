"""Distortions are what a slow reading of their definition gives, and follow from their seeds."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from lenet.data.augment import CHUNK, Distortion, _smoother, field
from lenet.data.batches import Batches
from lenet.native import set_threads

ALL = Distortion(12.0, 0.2, 0.1, 0.3, 3.0, elastic=1.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, height=32, width=32):
    return torch.randint(0, 256, (count, 1, height, width), generator=generator(9)).byte()


def slow(image, matrix, shift):
    """Point by point: where the inverse of p -> matrix p + shift comes from, read bilinearly."""
    height, width = image.shape
    inverse = np.linalg.inv(matrix)
    points = np.empty((2, height, width))
    for y in range(height):
        for x in range(width):
            centred = np.array([x - (width - 1) / 2, y - (height - 1) / 2])
            across, down = inverse @ (centred - shift)
            points[:, y, x] = down + (height - 1) / 2, across + (width - 1) / 2
    return map_coordinates(image, points, order=1, mode="grid-constant", cval=0.0)


@pytest.fixture(params=["kernels", "pytorch"])
def computed_by(request, use_compiler):
    """By the native kernels where they can be built, or by PyTorch as without a compiler."""
    if request.param == "pytorch":
        use_compiler("no-such-compiler")
    return request.param


def field_of(distortion, count, height, width, draws):
    """The elastic displacements, in pixels."""
    smoothers = [_smoother(side, distortion.smoothness) for side in (height, width)]
    return field(distortion.noise(count, height, width, draws), smoothers[0], smoothers[1].T)


def test_kernels_and_pytorch_distort_alike_and_threads_change_no_bit(use_compiler):
    images = pictures(70).repeat(1, 3, 1, 1)
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(ALL(images, generator(4)))
    set_threads(None)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    use_compiler("no-such-compiler")
    assert (found[0] - ALL(images, generator(4))).abs().max() < 0.05  # of 255


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 24), (19, 21)])
def test_affine_maps_read_what_a_slow_loop_reads(height, width, computed_by):
    images = pictures(6, height, width)
    distortion = Distortion(30.0, 0.3, 0.2, 0.4, 4.0)
    matrices, shifts = distortion.affine(6, generator(1))
    output = distortion(images, generator(1))
    for image, matrix, shift, got in zip(images, matrices, shifts, output, strict=True):
        expected = slow(image[0].double().numpy(), matrix.double().numpy(), shift.double().numpy())
        assert np.abs(got[0].numpy() - expected).max() < 0.05  # of 255: float32's coordinates


def test_an_elastic_field_moves_pixels_by_what_it_says_in_pixels(computed_by):
    images = pictures(3, 16, 24)
    distortion = Distortion(elastic=1.5)
    draws = generator(2)
    distortion.affine(3, draws)
    moved = field_of(distortion, 3, 16, 24, draws)
    output = distortion(images, generator(2))
    rows, columns = np.mgrid[:16, :24]
    for image, (across, down), got in zip(images, moved.numpy(), output, strict=True):
        points = np.stack([rows + down, columns + across])
        expected = map_coordinates(
            image[0].double().numpy(), points, order=1, mode="grid-constant", cval=0.0
        )
        assert np.abs(got[0].numpy() - expected).max() < 0.05


def test_the_field_has_its_standard_deviation_and_smoothness_everywhere():
    field = field_of(Distortion(elastic=1.5, smoothness=4.0), 4000, 32, 32, generator())[:, 0]
    assert (field.std(dim=0) - 1.5).abs().max() < 0.1  # the borders too
    # Smoothing by sigma leaves neighbours at distance d a correlation of exp(-d^2 / 4 sigma^2).
    for distance in (2, 4, 8):
        pairs = field[:, 16, 8].double(), field[:, 16, 8 + distance].double()
        correlation = float((pairs[0] * pairs[1]).mean() / (pairs[0].std() * pairs[1].std()))
        assert correlation == pytest.approx(math.exp(-(distance**2) / 64), abs=0.06)


def test_draws_reach_their_extents_and_stay_within_them():
    matrices, shifts = Distortion(rotation=10.0).affine(2000, generator())
    angles = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert not shifts.any()
    _, shifts = Distortion(shift=2.0).affine(2000, generator())
    matrices, _ = Distortion(scale=0.25).affine(2000, generator())
    sizes = matrices[:, 0, 0]
    assert torch.equal(sizes, matrices[:, 1, 1])
    matrices, _ = Distortion(shear=0.3).affine(2000, generator())
    assert not matrices[:, 1, 0].any()
    for draws, extent in (
        (angles, 10),
        (shifts[:, 0], 2),
        (shifts[:, 1], 2),
        (sizes.log(), math.log(1.25)),
        (matrices[:, 0, 1], 0.3),
    ):
        assert -extent * 1.0001 <= draws.min() < -0.97 * extent
        assert 0.97 * extent < draws.max() <= extent * 1.0001
    matrices, _ = Distortion(squeeze=0.25).affine(2000, generator())
    assert torch.allclose(matrices[:, 0, 0] * matrices[:, 1, 1], torch.ones(2000))


def test_nothing_set_changes_no_bit():
    images = pictures(3)
    assert Distortion().changes_nothing
    assert not Distortion(shear=0.1).changes_nothing
    assert torch.equal(Distortion()(images, generator()), images.float())


def test_each_image_is_distorted_in_its_own_way_and_the_same_by_the_same_seed():
    images = pictures(1).expand(2 * CHUNK + 3, 1, 32, 32)
    output = ALL(images, generator(5))
    assert len(output.flatten(1).unique(dim=0)) == len(images)
    assert torch.equal(output, ALL(images, generator(5)))
    assert not torch.equal(output, ALL(images, generator(6)))


def test_an_epochs_distortions_follow_from_seed_and_epoch_alone():
    images, labels = pictures(300), torch.arange(300)

    def epoch(seed, number):
        batches = Batches(images, labels, 64, seed, distort=ALL)
        batches.set_epoch(number)
        seen, order = (torch.cat(part) for part in zip(*batches, strict=True))
        return seen[order.argsort()]

    first = epoch(3, 1)
    assert torch.equal(first, epoch(3, 1))
    assert not torch.equal(first, epoch(3, 2))
    assert not torch.equal(first, epoch(4, 1))
