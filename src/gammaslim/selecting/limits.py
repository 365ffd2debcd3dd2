"""Limits: what every group keeps whatever its scores, and in which blocks it gets narrower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.errors import TargetError
from gammaslim.selecting.chains import Chain


def check_share(name: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        TargetError: ``value`` is NaN or not from 0 to 1.
    """
    if not 0 <= value <= 1:
        raise TargetError(f"{name}={value!r} was asked; it is a share, from 0 to 1.")


@dataclass(frozen=True)
class Limits:
    """What every group must keep, whatever its scores."""

    round_to: int = 1
    min_channels: int = 1
    max_remove: float = 1.0

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        for name in ("round_to", "min_channels"):
            value: Any = getattr(self, name)
            least = 1 if name == "round_to" else 0
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TargetError(
                    f"{name}={value!r} was asked; it must be an integer, {least} or more."
                )
        check_share("max_remove", self.max_remove)

    def most(self, widths: IntArray, candidates: IntArray, empty: BoolArray) -> IntArray:
        """How many of each group's ``candidates`` may go at most; all arrays are per group.

        ``empty``: whether all of them may.
        """
        least = np.where(empty, 0, 1)
        floor = np.maximum(np.maximum(self._floor(widths), least), widths - candidates)
        rounded = -(-floor // self.round_to) * self.round_to
        return widths - np.minimum(rounded, widths)

    def block(self, places: IntArray, widths: IntArray) -> IntArray:
        """In which of its group's blocks each place is: what is left between blocks is allowed.

        The first block ends at the next multiple of ``round_to`` below the width, the others are
        ``round_to`` wide.  12 channels in eights: places 0 to 3 are block 0, 4 to 11 block 1.
        """
        first = (widths - 1) % self.round_to + 1
        return (places - first) // self.round_to + 1

    def stops(self, chain: Chain) -> IntArray:
        """After which numbers of steps of a chain every layer in it has a width that is allowed."""
        full = chain.widths[0]
        good = (chain.widths >= np.maximum(self._floor(full), 1)) & (
            chain.widths % self.round_to == 0
        )
        return np.flatnonzero((good | (chain.widths == full)).all(axis=1)).astype(np.int64)

    def _floor(self, widths: IntArray) -> IntArray:
        # 0.29 * 100 is 28.999…, which must not cost a channel.
        cap = np.floor(widths * self.max_remove + 1e-9).astype(np.int64)
        return np.maximum(self.min_channels, widths - cap)
