"""View and reshape: dimensions merge and split, and labels are rearranged with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gammaslim.findings import Dims
from gammaslim.graph import IntArray
from gammaslim.labels import LabelArray
from gammaslim.recording import Op, Recorder
from gammaslim.rules.registry import rule
from gammaslim.sizes import Given, Size


@dataclass(frozen=True)
class Block:
    """A run of input dimensions that becomes a run of output dimensions of the same product."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


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
    for block in blocks(before, after) if op.out.numel() else ():
        sizes = [given[d] for d in block.outputs]
        found = _through(recorder, block, labels.dims, before, after, sizes)
        for target, own in zip(block.outputs, found, strict=True):
            dims[target] = own
    for own, size in zip(dims, given, strict=True):
        if own is None and isinstance(size, Size):
            recorder.freeze(size.terms.labels, "the code computes a fixed dimension from its size")
    recorder.give(op.out, dims, zero=labels.zero)


def _through(
    recorder: Recorder,
    block: Block,
    dims: Dims,
    before: Sequence[int],
    after: Sequence[int],
    given: list[Given],
) -> list[LabelArray]:
    """Labels of a block's output dimensions."""
    if all(dims[d] is None for d in block.inputs):
        return [None] * len(block.outputs)
    ins, outs = [before[d] for d in block.inputs], [after[d] for d in block.outputs]
    if ins == outs:
        pairs = zip(block.inputs, given, strict=True)
        return [_followed(recorder, dims[source], size) for source, size in pairs]
    owners = [(d, labels) for d in block.inputs if (labels := dims[d]) is not None]
    if len(owners) != 1:
        for _, labels in owners:
            recorder.freeze(labels, "two channel dimensions are merged")
        return [None] * len(outs)
    spread = _spread(owners[0][1], before, block, owners[0][0])
    return _placed(recorder, spread.reshape(outs), given)


def _given(recorder: Recorder, sizes: list[int]) -> list[Given]:
    call = recorder.call
    if call.name in ("view_as", "reshape_as"):
        example = call.args[1]
        return list(recorder.tagged(example, example.shape, None))
    if call.name == "unflatten":
        inner = call.integers()[1:]
        start = int(call.integers()[0]) % (len(sizes) - len(inner) + 1)
        tail = len(sizes) - start - len(inner)
        return [None] * start + [None if v == -1 else v for v in inner] + [None] * tail
    return call.given(sizes)


def _followed(recorder: Recorder, labels: LabelArray, given: Given) -> LabelArray:
    if labels is not None:
        recorder.follow(labels, given)
    return labels


def _spread(labels: IntArray, before: Sequence[int], block: Block, owner: int) -> IntArray:
    """The labels of one input dimension, repeated over the whole block."""
    shape = [before[d] if d == owner else 1 for d in block.inputs]
    full = [before[d] for d in block.inputs]
    return np.broadcast_to(labels.reshape(shape), full)


def _placed(recorder: Recorder, grid: IntArray, given: list[Given]) -> list[LabelArray]:
    """Put the labels of a block on the one output dimension along which they can vary."""
    dims: list[LabelArray] = [None] * grid.ndim
    varying = [axis for axis in range(grid.ndim) if _varies(grid, axis)]
    if not varying:
        recorder.freeze(grid[(0,) * grid.ndim].reshape(1), "a single channel is spread out")
        return dims
    flexible = [axis for axis in varying if not _constant(given[axis])]
    if len(varying) > 1 and len(flexible) == 1:
        keep = flexible[0]
        rows = np.moveaxis(grid, keep, -1).reshape(-1, grid.shape[keep])
        recorder.store.couple(*_columns(rows))
        recorder.store.freeze(rows.ravel()[_with_fixed(rows).ravel()], recorder.reason(_FIXED))
        varying = [keep]
    if len(varying) > 1:
        text = "the sizes that split it are constants" if not flexible else _AMBIGUOUS
        recorder.freeze(grid.ravel(), text)
        return dims
    axis = varying[0]
    labels = np.moveaxis(grid, axis, -1).reshape(-1, grid.shape[axis])[0].copy()
    recorder.follow(labels, given[axis])
    dims[axis] = labels
    return dims


_FIXED = "it shares a part with indices that are fixed"
_AMBIGUOUS = "it is split where more than one dimension could shrink"


def _columns(rows: IntArray) -> tuple[IntArray, IntArray]:
    left, right = np.broadcast_arrays(rows[:1], rows)
    both = (left >= 0) & (right >= 0)
    return left[both], right[both]


def _with_fixed(rows: IntArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Labels in a column that also holds a fixed index."""
    return np.broadcast_to((rows < 0).any(axis=0), rows.shape) & (rows >= 0)


def _varies(grid: IntArray, axis: int) -> bool:
    first = np.take(grid, [0], axis=axis)
    return grid.shape[axis] > 1 and not bool((grid == first).all())


def _constant(given: Given) -> bool:
    return given is not None and not isinstance(given, Size)


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


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(recorder: Recorder, op: Op) -> None:
    """G equal parts are interleaved, so the i-th channel of each lives or dies together."""
    labels = recorder.labels(op["self"])
    dims = list(labels.dims)
    if dims[1] is not None:
        parts = dims[1].reshape(op["groups"], -1)
        recorder.tie(parts, f"channels are shuffled over {op['groups']} parts")
        dims[1] = parts.T.ravel().copy()
    recorder.give(op.out, dims, zero=labels.zero)
