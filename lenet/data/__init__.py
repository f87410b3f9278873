"""Data sets: files, checked tensors, splits, batches."""

from lenet.data.sets import load, load_files

__all__ = ["load", "load_files"]
