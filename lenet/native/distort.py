"""The C++ kernel for distorted images."""

import ctypes

import torch
from torch import Tensor

from lenet.native.build import BuildError
from lenet.native.op import get_threads, hold, loaded


class Shape(ctypes.Structure):
    """distort.cpp's `Shape`."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("images", "maps", "height", "width", "row_points", "column_points")
    )


def distort(
    images: Tensor, affine: Tensor, noise: Tensor | None, rows: Tensor, columns: Tensor
) -> Tensor | None:
    """The images, each pixel read bilinearly at matrix @ (pixel - shift) + rows @ noise @ columns;
    outside they are 0. None where the kernels cannot be built, or the images are not on a CPU.

    Shapes: images (N, C, H, W); affine (N, 6), the matrix and the shift; noise (N, 2, P, Q), along
    x and y; rows (H, P); columns (Q, W); all in pixels -> float32 (N, C, H, W).
    """
    if not images.is_cpu:
        return None
    try:
        library = loaded()
    except BuildError:
        return None
    images, out = images.float().contiguous(), torch.empty(images.shape)
    given = [images, affine.contiguous(), noise, rows.contiguous(), columns.contiguous()]
    points = (0, 0) if noise is None else noise.shape[2:]
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in given]
    shape = Shape(*images.shape, *points)
    late = library.cdll.lenet_distort(ctypes.byref(shape), get_threads(), *pointers, out.data_ptr())
    hold(late, *given, out)
    return out.clone() if late else out  # a late thread writes to `out` once more
