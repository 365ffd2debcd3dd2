"""View and reshape: dimensions merge and split, and labels are rearranged with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gammaslim.arrays import IntArray
from gammaslim.channels.sequences import Repeat, Shuffle
from gammaslim.labels.store import LabelArray, Partition, fixed_code
from gammaslim.recording.findings import Grid, TensorLabels
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.recording.sizes import Given, Size
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

    dims: list[LabelArray]
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


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy")
def view(recorder: Recorder, op: Op) -> None:
    """Rearrange labels block by block; a labelled dimension that splits is kept in equal parts."""
    x = op["self"]
    labels = recorder.labels(x)
    before, after = tuple(x.shape), tuple(op.out.shape)
    given = _given(recorder, list(op["size"]))
    dims: list[LabelArray] = [None] * len(after)
    grids: list[Grid] = []
    runs = list(blocks(before, after)) if op.out.numel() else []
    if not any(_joins(block, labels.grid, before) for block in runs):
        recorder.mix(labels)
    for block in runs:
        outs = tuple(after[d] for d in block.outputs)
        sizes = [given[d] for d in block.outputs]
        placed = _through(recorder, block, labels, before, Target(outs, sizes))
        for axis, own in zip(block.outputs, placed.dims, strict=True):
            dims[axis] = own
        if placed.grid is not None:
            grids.append(placed.grid.at(block.outputs))
    for own, size in zip(dims, given, strict=True):
        if own is None and isinstance(size, Size):
            recorder.freeze(size.terms.labels, "the code computes a fixed dimension from its size")
            recorder.settled(size)
    recorder.give(op.out, dims, zero=labels.zero, grid=grids[0] if len(grids) == 1 else None)


def _through(
    recorder: Recorder, block: Block, source: TensorLabels, before: Sequence[int], target: Target
) -> Placed:
    """Labels of a block's output dimensions."""
    if all(source.dims[d] is None for d in block.inputs):
        return Placed([None] * len(target.sizes))
    ins, dims = tuple(before[d] for d in block.inputs), source.dims
    if ins == target.sizes:
        pairs = zip(block.inputs, target.given, strict=True)
        return Placed([_followed(recorder, dims[d], size) for d, size in pairs])
    owners = [(d, labels) for d in block.inputs if (labels := dims[d]) is not None]
    merged = _merged(recorder, block, source.grid, before)
    if merged is None and len(owners) > 1:
        merged = _product(recorder, block, owners, before)
    if merged is not None:
        return _placed(recorder, merged.reshape(target.sizes), target)
    owner, labels = owners[-1]
    spread = _spread(labels, before, block, owner)
    placed = _placed(recorder, spread.reshape(target.sizes), target)
    for own in placed.dims:
        times = 0 if own is None else len(own) // len(labels)
        if own is not None and times > 1 and np.array_equal(own, np.repeat(labels, times)):
            recorder.store.derive(own, Repeat(times), labels)
    return placed


def _product(
    recorder: Recorder, block: Block, owners: list[tuple[int, IntArray]], before: Sequence[int]
) -> LabelArray:
    """Two channel dimensions become one, such as heads x features: one of the two may shrink.

    Only the longer ones may where there are more, or where something else lies between.
    """
    between = {d for d in block.inputs if before[d] > 1} - {d for d, _ in owners}
    if len(owners) == 2 and not between:
        (_, outer), (_, inner) = owners
        labels = recorder.store.fresh(len(outer) * len(inner))
        _either(recorder, labels.reshape(len(outer), -1), outer, inner)
        return labels
    owners.sort(key=lambda owner: np.count_nonzero(owner[1] >= 0))
    for _, labels in owners[:-1]:
        recorder.freeze(labels, "it is merged with a longer channel dimension")
    return None


def _merged(
    recorder: Recorder, block: Block, grid: Grid | None, before: Sequence[int]
) -> LabelArray:
    """The labels of a dimension that was split, moved about, and is put together again."""
    if grid is None or not _joins(block, grid, before):
        return None
    if (grid.parts < grid.inner) != grid.strided:
        return grid.whole
    return _shuffled(recorder, grid.whole, Shuffle(before[grid.parts], grid.strided))


def _joins(block: Block, grid: Grid | None, before: Sequence[int]) -> bool:
    """Whether the block is made of the two dimensions of the grid and nothing else."""
    real = {d for d in block.inputs if before[d] != 1}
    return grid is not None and real == {grid.parts, grid.inner}


def _given(recorder: Recorder, sizes: list[int]) -> list[Given]:
    call = recorder.call
    if (example := call.written("other")) is not None:  # view_as
        return list(recorder.tagged(example, example.shape, None))
    if (inner := call.written("sizes")) is not None:  # unflatten
        start = call.written("dim") % (len(sizes) - len(inner) + 1)
        tail = len(sizes) - start - len(inner)
        return [None] * start + [None if v == -1 else v for v in inner] + [None] * tail
    return call.given("size", sizes)


def _followed(recorder: Recorder, labels: LabelArray, given: Given) -> LabelArray:
    if labels is not None:
        recorder.follow(labels, given)
    return labels


def _spread(labels: IntArray, before: Sequence[int], block: Block, owner: int) -> IntArray:
    """The labels of one input dimension, repeated over the whole block."""
    shape = [before[d] if d == owner else 1 for d in block.inputs]
    full = [before[d] for d in block.inputs]
    return np.broadcast_to(labels.reshape(shape), full)


def _placed(recorder: Recorder, block: IntArray, target: Target) -> Placed:
    """Put the labels of a block on the one output dimension along which they can vary."""
    dims: list[LabelArray] = [None] * block.ndim
    varying = [axis for axis in range(block.ndim) if _varies(block, axis)]
    if not varying:
        recorder.freeze(block[(0,) * block.ndim].reshape(1), "a single channel is spread out")
        return Placed(dims)
    if len(varying) > 1:
        return _split(recorder, block, target, varying)
    axis = varying[0]
    labels = np.moveaxis(block, axis, -1).reshape(-1, block.shape[axis])[0].copy()
    recorder.follow(labels, target.given[axis])
    dims[axis] = labels
    return Placed(dims)


def _split(recorder: Recorder, block: IntArray, target: Target, varying: list[int]) -> Placed:
    """Equal parts: either the same column of each may go, or whole parts where the code allows."""
    dims: list[LabelArray] = [None] * block.ndim
    flexible = [axis for axis in varying if not _constant(target.given[axis])][-2:]
    if not flexible:
        recorder.freeze(block.ravel(), "the sizes that split it are constants")
        return Placed(dims)
    for axis in set(varying) - set(flexible):
        recorder.settled(target.given[axis])
    inner = flexible[-1]
    last = [block.shape[axis] for axis in flexible]
    rows = np.moveaxis(block, flexible, range(-len(flexible), 0)).reshape(-1, math.prod(last))
    if len(flexible) == 2:
        found = [recorder.store.fresh(size) for size in last]
        _either(recorder, _tied(recorder, rows).reshape(last), *found)
    else:
        found = [_tied(recorder, rows, followed=True)]
    for axis, labels in zip(flexible, found, strict=True):
        recorder.follow(labels, target.given[axis])
        dims[axis] = labels
    others = [axis for axis, size in enumerate(block.shape) if size > 1 and axis != inner]
    if len(others) > 1:
        return Placed(dims)
    return Placed(dims, Grid(block.ravel(), others[0], inner, strided=inner < others[0]))


def _tied(recorder: Recorder, rows: IntArray, *, followed: bool = False) -> IntArray:
    """New labels for the columns of equal parts; a single part keeps its own."""
    if len(rows) == 1:
        return rows[0]
    columns = recorder.store.fresh(rows.shape[1])
    text = f"it is split into {len(rows)} equal parts"
    recorder.tie(rows, text, column=columns, followed=followed)
    return columns


def _either(recorder: Recorder, grid: IntArray, rows: IntArray, columns: IntArray) -> None:
    """Either whole rows of a grid may go, with their labels, or whole columns, with theirs."""
    reason = recorder.reason(f"{grid.shape[0]} x {grid.shape[1]} channels are one dimension")
    fixed = np.array([fixed_code(reason)])
    partition = Partition((grid, rows[:, None]), (columns, fixed), whole=True, reason=reason)
    recorder.store.partition(replace(partition, followed=True))


def _varies(grid: IntArray, axis: int) -> bool:
    first = np.take(grid, [0], axis=axis)
    return grid.shape[axis] > 1 and not bool((grid == first).all())


def _constant(given: Given) -> bool:
    return given is not None and (not isinstance(given, Size) or given.constant)


@rule("pixel_shuffle")
def pixel_shuffle(recorder: Recorder, op: Op) -> None:
    """r² consecutive channels become one."""
    _fold_channels(recorder, op, op["upscale_factor"] ** 2, spatial=2)


@rule("col2im")
def col2im(recorder: Recorder, op: Op) -> None:
    """k₁ k₂ consecutive channels become one."""
    x = op["self"]
    labels = recorder.labels(x)
    rows = labels.dims[-2]
    if rows is not None:
        parts = rows.reshape(-1, math.prod(op["kernel_size"])).T
        recorder.tie(parts, "columns are folded into an image")
        rows = parts[0].copy()
    recorder.give(op.out, (*labels.dims[:-2], rows, None, None), zero=labels.zero)


def _fold_channels(recorder: Recorder, op: Op, factor: int, spatial: int) -> None:
    labels = recorder.labels(op["self"])
    axis = op["self"].ndim - spatial - 1
    channels = labels.dims[axis]
    if channels is not None:
        parts = channels.reshape(-1, factor).T
        recorder.tie(parts, f"{factor} channels are folded into one")
        channels = parts[0].copy()
    dims = (*labels.dims[:axis], channels, *(None for _ in range(spatial)))
    recorder.give(op.out, dims, zero=labels.zero)


@rule("pixel_unshuffle")
def pixel_unshuffle(recorder: Recorder, op: Op) -> None:
    """One channel becomes r² consecutive ones."""
    _repeat_channels(recorder, op, op["downscale_factor"] ** 2, axis=op["self"].ndim - 3)


@rule("im2col")
def im2col(recorder: Recorder, op: Op) -> None:
    """One channel becomes k₁ k₂ consecutive rows."""
    _repeat_channels(recorder, op, math.prod(op["kernel_size"]), axis=op["self"].ndim - 3)


def _repeat_channels(recorder: Recorder, op: Op, factor: int, axis: int) -> None:
    labels = recorder.labels(op["self"])
    channels = labels.dims[axis]
    dims: list[LabelArray] = [None] * op.out.ndim
    dims[axis] = None if channels is None else np.repeat(channels, factor)
    recorder.give(op.out, dims, zero=labels.zero)


def _shuffled(recorder: Recorder, whole: IntArray, shuffle: Shuffle) -> IntArray:
    labels = shuffle.value(whole)
    if labels is None or shuffle.parts in (1, len(whole)):
        return whole
    labels = labels.copy()
    recorder.store.derive(labels, shuffle, whole)
    return labels


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(recorder: Recorder, op: Op) -> None:
    """G equal parts are interleaved, so the i-th channel of each lives or dies together."""
    labels = recorder.labels(op["self"])
    dims = list(labels.dims)
    if dims[1] is not None:
        whole, parts = dims[1], op["groups"]
        text = f"channels are shuffled over {parts} parts"
        recorder.tie(whole.reshape(parts, -1), text, followed=True)
        dims[1] = _shuffled(recorder, whole, Shuffle(parts))
    recorder.give(op.out, dims, zero=labels.zero)
