"""Array types, sites, and which indices of a dimension survive a cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Site = tuple[str, int]

Windows = tuple[tuple[int, int, int], ...]
"""Per spatial dimension the extent of a convolution's kernel, its stride, and all its padding."""

Dims = tuple[IntArray | None, ...]
"""Labels or channel ids of every dimension of a tensor; ``None`` where nothing may go."""

FIXED = -1
"""Stands in a channel-id array for an index that can never go (padding, input, kernel size)."""


def kept_count(channels: IntArray, keep: BoolArray) -> int:
    """How many indices of one dimension survive: ``Σ keep[c]``, fixed indices always counted."""
    return int(np.count_nonzero(kept_mask(channels, keep)))


def kept_mask(channels: IntArray, keep: BoolArray) -> BoolArray:
    """Boolean mask of the surviving indices of one dimension whose channel ids are given."""
    fixed = channels < 0
    if keep.size == 0:
        return np.ones(len(channels), dtype=np.bool_)
    return fixed | keep[np.where(fixed, 0, channels)]


def owner(name: str) -> str:
    """The path of the module that holds the tensor or attribute ``name``."""
    return name.rpartition(".")[0]
