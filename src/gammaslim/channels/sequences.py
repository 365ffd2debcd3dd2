"""The order of channels at run time, where a network joins, cuts and shuffles what its layers give.

A *sequence* is what one dimension holds, index by index.  A *leaf* is the output of a layer, and a
:class:`Step` makes one sequence of others, always in the same way, however many channels there are.
So the steps, run on what a cut leaves of each leaf, say which channel stands where afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels.renumbering import Renumbering


@dataclass(frozen=True)
class Join:
    """Sequences laid end to end: ``cat``."""

    def value(self, *parts: IntArray) -> IntArray | None:
        """The joined sequence."""
        return np.concatenate(parts)


@dataclass(frozen=True)
class Part:
    """From ``start / count`` to ``stop / count`` of a sequence: one of the results of ``chunk``."""

    start: int
    stop: int
    count: int

    def value(self, whole: IntArray) -> IntArray | None:
        """That part; ``None`` where the sequence cannot be cut like this."""
        unit, rest = divmod(len(whole), self.count)
        return None if rest else whole[self.start * unit : self.stop * unit]


@dataclass(frozen=True)
class Shuffle:
    """A sequence seen as a matrix of ``parts`` equal parts and read the other way.

    The parts are its rows, or its columns where ``strided``.
    """

    parts: int
    strided: bool = False

    def value(self, whole: IntArray) -> IntArray | None:
        """The shuffled sequence; ``None`` where the parts would not be equal."""
        if len(whole) % self.parts:
            return None
        shape = (-1, self.parts) if self.strided else (self.parts, -1)
        return whole.reshape(shape).T.ravel()


@dataclass(frozen=True)
class Repeat:
    """Every entry of a sequence, ``times`` times in a row: channels that are flattened."""

    times: int

    def value(self, whole: IntArray) -> IntArray | None:
        """The longer sequence."""
        return np.repeat(whole, self.times)


Operation = Join | Part | Shuffle | Repeat


@dataclass(frozen=True)
class Step:
    """One sequence made of those with the numbers ``operands``."""

    operation: Operation
    operands: tuple[int, ...]


def run(leaves: Sequence[IntArray], steps: Sequence[Step]) -> list[IntArray] | None:
    """All sequences, the leaves first; ``None`` where some step finds no equal parts."""
    known = list(leaves)
    for step in steps:
        value = step.operation.value(*(known[number] for number in step.operands))
        if value is None:
            return None
        known.append(value)
    return known


@dataclass(frozen=True, eq=False)
class Balance:
    """Layers of which every cut must keep equal shares, though any channels of each run.

    A *run* is an interval of one layer's channels that go the same way through all parts: as many
    of each must stay as the steps then send that way.  ``widths`` holds those of the layers, one
    row per possible cut, from the uncut one down; ``quotas`` how many of each run stay there.
    """

    runs: tuple[IntArray, ...]
    quotas: IntArray
    widths: IntArray

    @property
    def channels(self) -> IntArray:
        """All channels of all runs."""
        return np.concatenate(self.runs)

    def mapped(self, number: Callable[[IntArray], IntArray]) -> Balance:
        """The same with every run passed through ``number``."""
        return replace(self, runs=tuple(map(number, self.runs)))

    def left(self, keep: BoolArray) -> Balance:
        """Only those cuts remain for which there are still channels enough in every run."""
        counts = np.array([np.count_nonzero(keep[run]) for run in self.runs])
        possible = (self.quotas <= counts).all(axis=1)
        return replace(self, quotas=self.quotas[possible], widths=self.widths[possible])

    def allows(self, keep: BoolArray) -> bool:
        """Whether the channels in ``keep`` are balanced."""
        counts = [np.count_nonzero(keep[run]) for run in self.runs]
        return bool((self.quotas == counts).all(axis=1).any())


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Where each channel stands at run time: ``leaves`` hold channel ids, ``steps`` follow them."""

    leaves: tuple[IntArray, ...] = ()
    steps: tuple[Step, ...] = ()
    balances: tuple[Balance, ...] = ()

    def mapped(self, number: Callable[[IntArray], IntArray]) -> Arrangement:
        """The same with every array of channels passed through ``number``."""
        balances = tuple(balance.mapped(number) for balance in self.balances)
        return Arrangement(tuple(map(number, self.leaves)), self.steps, balances)

    def after(self, now: Renumbering) -> Arrangement:
        """The arrangement of a cut network, with those further cuts that are still possible."""
        balances = tuple(balance.left(now.keep) for balance in self.balances)
        return replace(self, balances=balances).mapped(now.some)

    def objection(self, keep: BoolArray) -> str:
        """Which layers would not keep equal shares."""
        for balance in self.balances:
            if not balance.allows(keep):
                channel = balance.channels[~keep[balance.channels]][0]
                return (
                    "Layers whose outputs are shuffled and cut into equal parts must keep equal "
                    f"shares; these do not, first removed channel {channel}. Let select choose, "
                    "or follow graph.arrangement."
                )
        return ""

    def settled(self, keep: BoolArray) -> BoolArray:
        """``keep``: shares that are equal serve all they are for."""
        return keep

    def survivors(self, keep: BoolArray) -> dict[bytes, IntArray]:
        """Per sequence, known by the bytes of its channel ids: what ``keep`` leaves, in order."""
        kept = run([leaf[(leaf < 0) | keep[leaf]] for leaf in self.leaves], self.steps)
        full = run(self.leaves, self.steps)
        pairs = zip(full or (), kept or (), strict=False)
        return {before.tobytes(): after for before, after in pairs}


def unsorted(indices: IntArray) -> IntArray | None:
    """The permutation that puts sorted indices in this order; ``None`` where they are sorted."""
    ranks = np.argsort(np.argsort(indices))
    return ranks if (np.diff(ranks) < 0).any() else None


def order_of(ids: IntArray, sequence: IntArray) -> IntArray:
    """The permutation ``p`` with ``ids[p] = sequence``; equal entries keep their order."""
    order = np.empty(len(ids), dtype=np.int64)
    order[np.argsort(sequence, kind="stable")] = np.argsort(ids, kind="stable")
    return order
