"""What a cut makes of arrays of channel ids: those that stay are numbered anew, in their order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gammaslim.arrays import FIXED, BoolArray, IntArray, kept_count, kept_mask


# Of the channels 0 to 4 the cut keeps 0, 2 and 3, which become 0, 1 and 2. A dimension [2, 1, 3]
# becomes [1, 2]: `some`. If it lies behind a shuffle that now puts 3 first, `survivors` says so,
# and it becomes [2, 1]: `left`. A kernel's extent [FIXED] stays as it is. A dimension [1, 4] of
# which nothing is left still has one place if code needs some size: [FIXED], by `places`.
@dataclass(frozen=True, eq=False)
class Renumbering:
    """The numbers after a cut.

    ``keep``: the channels that stay, and ``shape`` those that have a place, besides them one of
    each group that has none.  ``survivors``: from one dimension's ids to the indices that stay, in
    the cut network's order.  ``gone``: the layers that leave, by path.
    """

    keep: BoolArray
    shape: BoolArray
    survivors: Callable[[IntArray], IntArray]
    gone: Collection[str]

    @cached_property
    def numbers(self) -> IntArray:
        """Per channel that stays its new id."""
        return np.cumsum(self.keep, dtype=np.int64) - 1

    def renumbered(self, ids: IntArray) -> IntArray:
        """The new ids of channels that are all left."""
        return np.where(ids < 0, ids, self.numbers[ids])

    def left(self, ids: IntArray) -> IntArray:
        """What is left of a dimension, in the order of the cut network."""
        return self.renumbered(ids[self.survivors(ids)])

    def any_left(self, ids: IntArray) -> IntArray | None:
        """The same; of a dimension that is empty, one place may be left, which is nobody's."""
        found = self.left(ids)
        return found if len(found) else None

    def some(self, ids: IntArray) -> IntArray:
        """What is left, where the order does not matter."""
        return self.renumbered(ids[kept_mask(ids, self.keep)])

    def places(self, ids: IntArray) -> IntArray:
        """The same; a dimension of which nothing is left still has its places."""
        found = self.some(ids)
        if len(found) or not len(ids):
            return found
        return np.full(kept_count(ids, self.shape), FIXED, dtype=np.int64)
