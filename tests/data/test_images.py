"""Bytes become what the tutorial makes of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from lenet.data.images import MNIST_MEAN, MNIST_STD, as_input
from tests.support.fake_sets import noise


def tutorials_chain(images):
    """What the tutorial does with each image."""
    chain = transforms.Compose(
        [
            transforms.Pad(2),
            transforms.ToTensor(),
            transforms.Normalize((MNIST_MEAN,), (MNIST_STD,)),
        ]
    )
    return torch.stack([chain(Image.fromarray(image.numpy())) for image in images])


def test_bytes_become_inputs_as_in_the_tutorial_bit_for_bit():
    levels = torch.arange(256, dtype=torch.uint8).repeat(4)[: 28 * 28].reshape(1, 28, 28)
    images = torch.cat([levels, noise(20, 28, 28)])
    assert as_input(images, 32, MNIST_MEAN, MNIST_STD).equal(tutorials_chain(images))


def test_colours_are_normalised_a_channel_as_torchvision_does_bit_for_bit():
    images, mean, std = noise(20, 3, 32, 32), (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([chain(image.permute(1, 2, 0).numpy()) for image in images])
    assert as_input(images, 32, mean, std).equal(expected)


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([0, 1, 3]))
def test_smaller_images_of_any_size_and_colour_get_an_even_border(height, width, channels):
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
def test_larger_images_are_resized_and_keep_what_they_show(shape):
    images = torch.zeros(1005, *shape, dtype=torch.uint8)  # more than one part of 1,000
    images[1000:, ..., : shape[-1] // 2] = 255  # a white left half, in the second part alone
    inputs = as_input(images, 32, 0.0, 1.0)
    assert inputs.shape == (1005, 3 if len(shape) == 3 else 1, 32, 32)
    assert (inputs[:1000] == 0).all()
    torch.testing.assert_close(inputs[1000:, ..., :14], torch.ones(5, inputs.shape[1], 32, 14))
    assert (inputs[1000:, ..., 18:] == 0).all()
    assert 0 <= inputs.min() <= inputs.max() <= 1 + 1e-6
