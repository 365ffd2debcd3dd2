"""View and reshape: dimensions merge and split, and labels are rearranged with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gammaslim.arrays import IntArray
from gammaslim.channels import Repeat, Shuffle
from gammaslim.labels import LabelArray, Partition, fixed_code
from gammaslim.recording import Given, Grid, OperatorCall, Size
from gammaslim.rules.registry import rule


@dataclass(frozen=True)
class Block:
    """A run of input dimensions that becomes a run of output dimensions of the same product."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """The output dimensions of a block: their sizes, and how the code gave them."""

    sizes: tuple[int, ...]
    given: Sequence[Given]


@dataclass(frozen=True)
class Placed:
    """Labels per output dimension of a block; the grid, where one dimension was split in two."""

    dims: Sequence[LabelArray]
    grid: Grid | None = None


@lru_cache(maxsize=4096)
def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Block, ...]:
    """Cut a reshape into its smallest independent parts, left to right."""
    found: list[Block] = []
    i = j = 0
    while i < len(before) or j < len(after):
        ins, outs = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(ins), j + len(outs)
        left = math.prod(before[k] for k in ins)
        right = math.prod(after[k] for k in outs)
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
                ins.append(i - 1)
            else:
                right, j = right * after[j], j + 1
                outs.append(j - 1)
        found.append(Block(tuple(ins), tuple(outs)))
    return tuple(found)


# A view falls into blocks: (2, 12, 4, 4) -> (2, 3, 4, 16) is 2 -> 2, then 12 -> 3 x 4, then
# 4 x 4 -> 16, each by itself.  In a block that carries labels, here 0 ... 11 along the 12,
#
# - a dimension passes, 12 -> 12, with its labels;
# - it is merged with pixels, 12 x 16 -> 192: each label is repeated 16 times;
# - it splits, 12 -> 3 x 4:
#
#        0  1  2  3        Labels now vary along both dimensions, but a dimension has one array of
#        4  5  6  7        them.  So either a column goes, and with it 1, 5 and 9, or a row goes,
#        8  9 10 11        and with it 4, 5, 6 and 7: which of the two, the code's sizes decide.
#
#   view(2, 3, -1, 16) lets columns go, for it writes 3 rows: they are tied, and the 4 gets one new
#   label for each.  view(2, -1, 4, 16) lets rows go, view(2, 3, 4, 16) neither, and where both are
#   followed sizes the resolver takes what leaves more.
#
# What was split is remembered as a grid.  A ShuffleNet unit shuffles eight channels by
# view(2, 2, 4, ...), transpose(1, 2), view(2, 8, ...): the 8 splits into 2 x 4, the grid moves
# along, and the second view merges nothing but its two dimensions.  So the labels there are those
# of before in another order, 0 4 1 5 2 6 3 7, and nothing is tied but the two halves.
@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy")
def view(call: OperatorCall) -> None:
    """Rearrange labels block by block; a labelled dimension that splits is kept in equal parts."""
    x, out = call["self"], call.out
    before, after = tuple(x.shape), tuple(out.shape)
    given = _given(call, list(call["size"]))
    grid = call.follow_grid(x)
    runs = blocks(before, after) if out.numel() else ()
    if not any(_joins(block, grid, before) for block in runs):
        call.mix(x)
    dims: list[LabelArray] = [None] * len(after)
    grids: list[Grid] = []
    for block in runs:
        target = Target(
            tuple(after[axis] for axis in block.outputs), [given[axis] for axis in block.outputs]
        )
        placed = _through(call, block, target)
        for axis, labels in zip(block.outputs, placed.dims, strict=True):
            dims[axis] = labels
        if placed.grid is not None:
            grids.append(placed.grid.at(block.outputs))
    for labels, size in zip(dims, given, strict=True):
        if labels is None and isinstance(size, Size):
            call.freeze(size.terms.labels, "the code computes a fixed dimension from its size")
            call.settled(size)
    call.give(out, dims, zero=True, grid=grids[0] if len(grids) == 1 else None)


def _given(call: OperatorCall, sizes: list[int]) -> list[Given]:
    """How the code gave the sizes, to whichever function it called."""
    if (example := call.written("other")) is not None:  # view_as
        return call.shape_of(example)
    if (inner := call.written("sizes")) is not None:  # unflatten
        start = call.written("dim") % (len(sizes) - len(inner) + 1)
        tail = len(sizes) - start - len(inner)
        return [None] * start + [None if v == -1 else v for v in inner] + [None] * tail
    return call.given("size", sizes)


def _joins(block: Block, grid: Grid | None, before: Sequence[int]) -> bool:
    """Whether the block is made of the two dimensions of the grid and nothing else."""
    real = {axis for axis in block.inputs if before[axis] != 1}
    return grid is not None and real == {grid.parts, grid.inner}


def _through(call: OperatorCall, block: Block, target: Target) -> Placed:
    """Labels of a block's output dimensions."""
    x = call["self"]
    dims, before = call.labels(x), tuple(x.shape)
    owners = [(axis, labels) for axis in block.inputs if (labels := dims[axis]) is not None]
    if not owners:
        return Placed([None] * len(target.sizes))
    if tuple(before[axis] for axis in block.inputs) == target.sizes:
        passing = [dims[axis] for axis in block.inputs]
        for labels, size in zip(passing, target.given, strict=True):
            if labels is not None:
                call.follow(labels, size)
        return Placed(passing)
    merged = None
    grid = call.follow_grid(x)
    if grid is not None and _joins(block, grid, before):
        turned = (grid.parts < grid.inner) == grid.strided
        shuffle = Shuffle(before[grid.parts], grid.strided)
        merged = _shuffled(call, grid.whole, shuffle) if turned else grid.whole
    elif len(owners) > 1:
        merged = _product(call, block, owners)
    if merged is not None:
        return _placed(call, merged.reshape(target.sizes), target)
    return _spread(call, block, owners[-1], target)


def _spread(
    call: OperatorCall, block: Block, owner: tuple[int, IntArray], target: Target
) -> Placed:
    """The labels of one input dimension are repeated over the others of its block."""
    before = call["self"].shape
    place, labels = owner
    own = [before[axis] if axis == place else 1 for axis in block.inputs]
    spread = np.broadcast_to(labels.reshape(own), [before[axis] for axis in block.inputs])
    placed = _placed(call, spread.reshape(target.sizes), target)
    for found in placed.dims:
        times = 0 if found is None else len(found) // len(labels)
        if found is not None and times > 1 and np.array_equal(found, np.repeat(labels, times)):
            call.derive(found, Repeat(times), labels)
    return placed


def _product(call: OperatorCall, block: Block, owners: list[tuple[int, IntArray]]) -> LabelArray:
    """Two channel dimensions become one, such as heads x features: one of the two may shrink.

    Only the longer ones may where there are more, or where something else lies between.
    """
    shape = call["self"].shape
    between = {axis for axis in block.inputs if shape[axis] > 1} - {axis for axis, _ in owners}
    if len(owners) == 2 and not between:
        (_, outer), (_, inner) = owners
        labels = call.fresh(len(outer) * len(inner))
        _either(call, labels.reshape(len(outer), -1), outer, inner)
        return labels
    owners.sort(key=lambda owner: np.count_nonzero(owner[1] >= 0))
    for _, labels in owners[:-1]:
        call.freeze(labels, "it is merged with a longer channel dimension")
    return None


def _placed(call: OperatorCall, block: IntArray, target: Target) -> Placed:
    """Put the labels of a block on the one output dimension along which they can vary."""
    varying = [
        axis
        for axis, size in enumerate(block.shape)
        if size > 1 and bool((block != np.take(block, [0], axis=axis)).any())
    ]
    if len(varying) > 1:
        return _split(call, block, target, varying)
    dims: list[LabelArray] = [None] * block.ndim
    if varying:
        (axis,) = varying
        labels = np.moveaxis(block, axis, -1).reshape(-1, block.shape[axis])[0].copy()
        call.follow(labels, target.given[axis])
        dims[axis] = labels
    else:
        call.freeze(block[(0,) * block.ndim].reshape(1), "a single channel is spread out")
    return Placed(dims)


def _split(call: OperatorCall, block: IntArray, target: Target, varying: list[int]) -> Placed:
    """Equal parts: either the same column of each may go, or whole parts where the code allows."""
    dims: list[LabelArray] = [None] * block.ndim
    constants = [
        size is not None and (not isinstance(size, Size) or size.constant) for size in target.given
    ]
    flexible = [axis for axis in varying if not constants[axis]][-2:]
    if not flexible:
        call.freeze(block.ravel(), "the sizes that split it are constants")
        return Placed(dims)
    for axis in set(varying) - set(flexible):
        call.settled(target.given[axis])
    inner = flexible[-1]
    last = [block.shape[axis] for axis in flexible]
    rows = np.moveaxis(block, flexible, range(-len(flexible), 0)).reshape(-1, math.prod(last))
    found = [call.fresh(size) for size in last] if len(flexible) == 2 else []
    columns = rows[0]
    if len(rows) > 1:
        columns = call.fresh(rows.shape[1])
        text = f"it is split into {len(rows)} equal parts"
        call.tie(rows, text, column=columns, followed=len(flexible) == 1)
    if found:
        _either(call, columns.reshape(last), *found)
    else:
        found = [columns]
    for axis, labels in zip(flexible, found, strict=True):
        call.follow(labels, target.given[axis])
        dims[axis] = labels
    others = [axis for axis, size in enumerate(block.shape) if size > 1 and axis != inner]
    if len(others) > 1:
        return Placed(dims)
    return Placed(dims, Grid(block.ravel(), others[0], inner, strided=inner < others[0]))


def _either(call: OperatorCall, grid: IntArray, rows: IntArray, columns: IntArray) -> None:
    """Either whole rows of a grid may go, with their labels, or whole columns, with theirs."""
    reason = call.reason(f"{grid.shape[0]} x {grid.shape[1]} channels are one dimension")
    held, labels = (grid, rows[:, None]), (columns, np.array([fixed_code(reason)]))
    call.partition(Partition(held, labels, whole=True, reason=reason, followed=True))


def _shuffled(call: OperatorCall, whole: IntArray, shuffle: Shuffle) -> IntArray:
    """The labels of a dimension whose equal parts are interleaved, or put back in order."""
    labels = shuffle.value(whole)
    if labels is None or shuffle.parts in (1, len(whole)):
        return whole
    labels = labels.copy()
    call.derive(labels, shuffle, whole)
    return labels


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: OperatorCall) -> None:
    """G equal parts are interleaved, so the i-th channel of each lives or dies together."""
    batch, whole, *rest = call.labels(call["self"])
    if whole is not None:
        parts = call["groups"]
        text = f"channels are shuffled over {parts} parts"
        call.tie(whole.reshape(parts, -1), text, followed=True)
        whole = _shuffled(call, whole, Shuffle(parts))
    call.give(call.out, (batch, whole, *rest), zero=True)
