"""Operators that move, join, cut and repeat dimensions without arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gammaslim.arrays import IntArray
from gammaslim.channels.sequences import Join, Part
from gammaslim.labels.store import ELASTIC, LabelArray, fixed_code
from gammaslim.recording.findings import Dims
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.recording.sizes import Given, Size
from gammaslim.rules.registry import rule


def pass_on(recorder: Recorder, op: Op, dims: Sequence[LabelArray]) -> None:
    """Give the output these labels; it is zero where the input is."""
    recorder.give(op.out, dims, zero=recorder.labels(op.inputs[0]).zero)


@rule("permute")
def permute(recorder: Recorder, op: Op) -> None:
    """Dimensions in a new order."""
    _permuted(recorder, op, [d % op.out.ndim for d in op["dims"]])


@rule("transpose", "swapaxes")
def transpose(recorder: Recorder, op: Op) -> None:
    """Two dimensions change places."""
    places = list(range(op.out.ndim))
    if places:
        a, b = op["dim0"], op["dim1"]
        places[a], places[b] = places[b], places[a]
    _permuted(recorder, op, places)


def _permuted(recorder: Recorder, op: Op, places: Sequence[int]) -> None:
    labels = recorder.labels(op["self"])
    grid = None if labels.grid is None else labels.grid.moved(places)
    recorder.give(op.out, [labels.dims[d] for d in places], zero=labels.zero, grid=grid)


@rule("t", "numpy_T", "mT")
def matrix_transpose(recorder: Recorder, op: Op) -> None:
    """The two dimensions of a matrix change places."""
    pass_on(recorder, op, recorder.dims(op["self"])[::-1])


@rule("unsqueeze")
def unsqueeze(recorder: Recorder, op: Op) -> None:
    """A new dimension of size one."""
    dims = list(recorder.dims(op["self"]))
    dims.insert(op["dim"] % op.out.ndim, None)
    pass_on(recorder, op, dims)


@rule("squeeze")
def squeeze(recorder: Recorder, op: Op) -> None:
    """Dimensions of size one leave; they never carry labels."""
    x = op["self"]
    chosen = op.get("dim")
    listed = range(x.ndim) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    gone = {d % max(x.ndim, 1) for d in listed if x.shape[d] == 1}
    pass_on(recorder, op, [d for i, d in enumerate(recorder.dims(x)) if i not in gone])


@rule("cat", "concat")
def cat(recorder: Recorder, op: Op) -> None:
    """Labels are joined along one dimension and united along all others."""
    tensors = [t for t in op["tensors"] if t.numel() or t.ndim > 1]
    axis = op.get("dim", 0) % op.out.ndim
    dims = _united_lists(recorder, [recorder.dims(t) for t in tensors], skip=axis)
    parts = [_or_fixed(recorder, t.shape[axis], recorder.dims(t)[axis], t) for t in tensors]
    labelled = any(recorder.dims(t)[axis] is not None for t in tensors)
    dims[axis] = joined = np.concatenate(parts) if labelled else None
    if joined is not None and len(parts) > 1:
        recorder.store.derive(joined, Join(), *parts)
    recorder.give(op.out, dims, zero=all(recorder.labels(t).zero for t in tensors))


@rule("stack")
def stack(recorder: Recorder, op: Op) -> None:
    """A new dimension; all others unite."""
    tensors = op["tensors"]
    dims = _united_lists(recorder, [recorder.dims(t) for t in tensors], skip=None)
    dims.insert(op.get("dim", 0) % op.out.ndim, None)
    recorder.give(op.out, dims, zero=all(recorder.labels(t).zero for t in tensors))


def _united_lists(recorder: Recorder, lists: list[Dims], skip: int | None) -> list[LabelArray]:
    dims = list(lists[0])
    for other in lists[1:]:
        for axis, labels in enumerate(other):
            if axis != skip:
                dims[axis] = recorder.unite(dims[axis], labels)
    return dims


def _or_fixed(recorder: Recorder, size: int, labels: LabelArray, tensor: object) -> IntArray:
    if labels is not None:
        return labels
    reason = recorder.labels(tensor).reason  # type: ignore[arg-type]
    return np.full(size, fixed_code(reason), dtype=np.int64)


@rule("constant_pad_nd")
def pad(recorder: Recorder, op: Op) -> None:
    """Padding adds indices that are always there; a negative amount cuts."""
    x, amounts = op["self"], list(op["pad"])
    dims = list(recorder.dims(x))
    given = [recorder.settled(amount) for amount in recorder.call.given("pad", amounts)]
    for pair in range(len(amounts) // 2):
        axis = x.ndim - 1 - pair
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        labels = dims[axis]
        if labels is None or (before == 0 and after == 0):
            continue
        if min(before, after) < 0 or any(isinstance(g, Size) for g in given):
            recorder.freeze(labels, "padding that cuts, or whose amount follows a size")
        code = fixed_code(recorder.reason("padding of a constant number of channels"))
        start, stop = max(0, -before), len(labels) - max(0, -after)
        dims[axis] = np.pad(
            labels[start:stop], (max(0, before), max(0, after)), constant_values=code
        )
    pass_on(recorder, op, dims)


@rule("slice")
def slice_(recorder: Recorder, op: Op) -> None:
    """A range of one dimension; where it ends inside the channels, the boundary must follow."""
    axis = op["dim"]
    dims = list(recorder.dims(op["self"]))
    labels = dims[axis]
    if labels is None:
        pass_on(recorder, op, dims)
        return
    start, stop, step = slice(op["start"], op["end"], op["step"]).indices(len(labels))
    if step != 1:
        recorder.freeze(labels, f"every {step}-th channel is taken")
    elif isinstance(sections := recorder.call.written("indices_or_sections"), int):
        _cut_evenly(recorder, labels, sections, int(sections))
    else:
        given_start, given_stop = _boundaries(recorder, op)
        _boundary(recorder, labels, start, given_start)
        _boundary(recorder, labels, stop, given_stop)
    dims[axis] = _part(recorder, labels, start, stop) if step == 1 else labels[start:stop:step]
    pass_on(recorder, op, dims)


def _part(recorder: Recorder, labels: IntArray, start: int, stop: int) -> IntArray:
    """The labels of a range, whose boundaries keep their share of the whole after any cut."""
    if stop - start in (0, len(labels)):
        return labels[start:stop]
    part, unit = labels[start:stop], math.gcd(start, stop, len(labels))
    operation = Part(start // unit, stop // unit, len(labels) // unit)
    recorder.store.derive(part, operation, labels)
    return part


def _boundaries(recorder: Recorder, op: Op) -> tuple[Given, Given]:
    """How the code gave start and stop: as followed sizes where it did, else as constants."""
    call = recorder.call
    start, stop = op["start"], op["end"]
    if isinstance(first := call.written("start"), int):  # narrow
        return first, first + call.written("length")
    if isinstance(indices := call.written("indices_or_sections"), list | tuple):  # tensor_split
        found = {int(place): place for place in indices}
        return found.get(start, start), found.get(stop, stop)
    if "index" in call.arguments:
        bounds = _slice_at(call.written("index"), op["dim"], call.written("input").ndim)
        return (start, stop) if bounds is None else (bounds.start, bounds.stop)
    return start, stop


def _slice_at(index: Any, axis: int, ndim: int) -> slice | None:
    """The slice of an index expression that is applied to dimension ``axis``.

    PyTorch applies the entries from the left.  In ``x[0, :, None, ..., :k]`` of five dimensions
    the integer takes the first one away, ``:`` is applied to dimension 0 of what is left, ``None``
    puts in dimension 1, ``...`` stands for two, and ``:k`` is applied to dimension 4.
    """
    entries = index if isinstance(index, tuple) else (index,)
    named = sum(map(_dimensions_named, entries))
    at = 0
    for entry in entries:
        if isinstance(entry, slice) and at == axis:
            return entry
        if entry is ...:
            at += ndim - named
        elif not _is_integer(entry):
            at += 1
    return None


def _dimensions_named(entry: Any) -> int:
    if entry is None or entry is ... or isinstance(entry, bool):
        return 0
    mask = isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8)
    return entry.ndim if mask else 1


def _is_integer(entry: Any) -> bool:
    """Whether an entry of an index takes its dimension away."""
    if isinstance(entry, Tensor):
        return entry.ndim == 0 and entry.dtype not in (torch.bool, torch.uint8)
    return isinstance(entry, int | np.integer) and not isinstance(entry, bool)


def _boundary(recorder: Recorder, labels: IntArray, place: int, given: Given) -> None:
    """Keep a boundary at ``place`` true: the part before it must have the computed size."""
    if place in (0, len(labels)) or given is None:
        return
    part = labels[place:] if given < 0 else labels[:place]
    if isinstance(given, Size):
        _tie_equal_parts(recorder, labels, given)
        recorder.follow(part, -given if given < 0 else given)
    else:
        recorder.freeze(part, f"the boundary {given} is written as a constant")


def _tie_equal_parts(recorder: Recorder, labels: IntArray, given: Size) -> None:
    """Where the code takes a 1/k-th of its own size, keep the k parts equal."""
    parts = given.terms.parts
    if len(parts) != 1 or given.terms.variables or not np.array_equal(parts[0][0], labels):
        return
    number = parts[0][1].denominator
    if number > 1 and len(labels) % number == 0:
        _tie_parts(recorder, labels, number)


@rule("split", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split", "split_with_sizes",
      "unsafe_split_with_sizes")  # fmt: skip
def split(recorder: Recorder, op: Op) -> None:
    """Consecutive parts of one dimension, each of which must keep the size the code gives it."""
    x = op["self"]
    axis = op.get("dim", 0) % x.ndim
    base = recorder.labels(x)
    labels = base.dims[axis]
    start = 0
    if labels is not None:
        _follow_parts(recorder, op, labels, [out.shape[axis] for out in op.outputs])
    for out in op.outputs:
        dims = list(base.dims)
        if labels is not None:
            dims[axis] = _part(recorder, labels, start, start + out.shape[axis])
        start += out.shape[axis]
        recorder.give(out, dims, zero=base.zero)


def _cut_evenly(recorder: Recorder, labels: IntArray, number: int, parts: int) -> None:
    """Keep ``parts`` parts equal; the code asked for ``number`` of them, which must not change."""
    if isinstance(number, Size):
        recorder.freeze(number.terms.labels, "its size counts equal parts")
        recorder.counted_parts(number.terms)
    if len(labels) % parts:
        recorder.freeze(labels, f"it is cut into {parts} unequal parts")
    elif parts > 1:
        _tie_parts(recorder, labels, parts)


def _tie_parts(recorder: Recorder, labels: IntArray, parts: int) -> None:
    rows = labels.reshape(parts, -1)
    recorder.tie(rows, f"it is cut into {parts} equal parts", followed=True)


def _follow_parts(recorder: Recorder, op: Op, labels: IntArray, widths: list[int]) -> None:
    number = recorder.call.written("chunks")
    if number is not None:
        _cut_evenly(recorder, labels, number, len(widths))
        return
    start = 0
    for width, size in zip(widths, _given_parts(recorder, op, widths), strict=True):
        if isinstance(size, Size):
            _tie_equal_parts(recorder, labels, size)
        recorder.follow(labels[start : start + width], size)
        start += width


def _given_parts(recorder: Recorder, op: Op, widths: list[int]) -> list[Given]:
    """How the code gave the width of each part; the last one may be what is left over."""
    asked = op.get("split_sizes", op.get("split_size"))
    if not isinstance(asked, int):
        return recorder.call.given("split_size", asked)
    (size,) = recorder.call.given("split_size", [asked])
    full = isinstance(size, Size) and widths[-1] == asked
    return [size] * (len(widths) - 1) + [size if full else None]


@rule("expand")
def expand(recorder: Recorder, op: Op) -> None:
    """A dimension of size one becomes any size, and follows whatever it meets."""
    x, sizes = op["self"], list(op["size"])
    given = recorder.call.given("size", sizes)
    own = (None,) * (len(sizes) - x.ndim) + recorder.dims(x)
    shape = (1,) * (len(sizes) - x.ndim) + tuple(x.shape)
    example = recorder.call.written("other")  # expand_as
    other = None if example is None else recorder.dims(example)
    dims: list[LabelArray] = []
    for axis, (labels, old, new) in enumerate(zip(own, shape, op.out.shape, strict=True)):
        if old != 1 or new == 1:
            dims.append(labels)
        elif other is not None:
            dims.append(other[axis])
        elif given[axis] is None:
            dims.append(np.full(new, ELASTIC, dtype=np.int64))
        else:
            dims.append(recorder.size_labels(given[axis], new))
    pass_on(recorder, op, dims)


@rule("repeat", "tile")
def repeat(recorder: Recorder, op: Op) -> None:
    """A dimension is laid down several times, with its labels."""
    x = op["self"]
    times = list(op.get("repeats", op.get("dims")))
    own = (None,) * (len(times) - x.ndim) + recorder.dims(x)
    given = recorder.call.given("repeats", times)
    dims: list[LabelArray] = []
    for labels, count, size, length in zip(own, times, given, op.out.shape, strict=True):
        if labels is None:
            dims.append(recorder.size_labels(size, length) if count == length else None)
            continue
        if isinstance(size, Size):
            recorder.freeze(size.terms.labels, "its size counts repetitions")
            recorder.counted_parts(size.terms)
        dims.append(np.tile(labels, count))
    pass_on(recorder, op, dims)


@rule("glu")
def glu(recorder: Recorder, op: Op) -> None:
    """First half times the sigmoid of the second: the i-th of each half unite."""
    axis = op["dim"]
    dims = list(recorder.dims(op["self"]))
    labels = dims[axis]
    if labels is not None:
        half = len(labels) // 2
        dims[axis] = recorder.unite(labels[:half], labels[half:])
    pass_on(recorder, op, dims)


@rule("as_strided")
def as_strided(recorder: Recorder, op: Op) -> None:
    """New strides over the same memory; harmless where every real dimension keeps its own."""
    labels = recorder.labels(op["self"])
    shape, strides = labels.layout
    same = shape == tuple(op["size"]) and all(
        before == after
        for size, before, after in zip(shape, strides, op["stride"], strict=True)
        if size > 1
    )
    if same:
        recorder.give(op.out, labels.dims, zero=labels.zero)
    else:
        recorder.freeze_all(op, "memory is read with other strides")
