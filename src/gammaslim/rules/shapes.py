"""Operators that move, join and repeat dimensions without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gammaslim.channels import Join
from gammaslim.labels import ELASTIC, LabelArray, fixed_code
from gammaslim.recording import OperatorCall, Size
from gammaslim.rules.registry import rule


@rule("permute")
def permute(call: OperatorCall) -> None:
    """Dimensions in a new order."""
    _permuted(call, [axis % call.out.ndim for axis in call["dims"]])


@rule("transpose", "swapaxes")
def transpose(call: OperatorCall) -> None:
    """Two dimensions change places."""
    places = list(range(call.out.ndim))
    if places:
        a, b = call["dim0"], call["dim1"]
        places[a], places[b] = places[b], places[a]
    _permuted(call, places)


def _permuted(call: OperatorCall, places: Sequence[int]) -> None:
    dims, grid = call.labels(call["self"]), call.follow_grid(call["self"])
    moved = None if grid is None else grid.moved(places)
    call.give(call.out, [dims[axis] for axis in places], zero=True, grid=moved)


@rule("t", "numpy_T", "mT")
def matrix_transpose(call: OperatorCall) -> None:
    """The two dimensions of a matrix change places."""
    call.give(call.out, call.labels(call["self"])[::-1], zero=True)


@rule("unsqueeze")
def unsqueeze(call: OperatorCall) -> None:
    """A new dimension of size one."""
    dims = list(call.labels(call["self"]))
    dims.insert(call["dim"] % call.out.ndim, None)
    call.give(call.out, dims, zero=True)


@rule("squeeze")
def squeeze(call: OperatorCall) -> None:
    """Dimensions of size one leave; they never carry labels."""
    x, chosen = call["self"], call.get("dim")
    listed = range(x.ndim) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    gone = {axis % max(x.ndim, 1) for axis in listed if x.shape[axis] == 1}
    rest = [labels for axis, labels in enumerate(call.labels(x)) if axis not in gone]
    call.give(call.out, rest, zero=True)


@rule("cat", "concat")
def cat(call: OperatorCall) -> None:
    """Labels are joined along one dimension and united along all others."""
    tensors = [tensor for tensor in call["tensors"] if tensor.numel() or tensor.ndim > 1]
    axis = call.get("dim", 0) % call.out.ndim
    dims = _united(call, tensors, skip=axis)
    parts = [call.or_fixed(call.labels(t)[axis], t.shape[axis], by=t) for t in tensors]
    labelled = any(call.labels(t)[axis] is not None for t in tensors)
    dims[axis] = joined = np.concatenate(parts) if labelled else None
    if joined is not None and len(parts) > 1:
        call.derive(joined, Join(), *parts)
    call.give(call.out, dims, zero=tensors)


@rule("stack")
def stack(call: OperatorCall) -> None:
    """A new dimension; all others unite."""
    dims = _united(call, call["tensors"])
    dims.insert(call.get("dim", 0) % call.out.ndim, None)
    call.give(call.out, dims, zero=True)


def _united(
    call: OperatorCall, tensors: Sequence[Tensor], skip: int | None = None
) -> list[LabelArray]:
    """The labels of tensors of one shape, united along all dimensions but ``skip``."""
    dims = list(call.labels(tensors[0]))
    for tensor in tensors[1:]:
        for axis, labels in enumerate(call.labels(tensor)):
            if axis != skip:
                dims[axis] = call.unite(dims[axis], labels)
    return dims


@rule("constant_pad_nd")
def pad(call: OperatorCall) -> None:
    """Padding adds indices that are always there; a negative amount cuts."""
    x, amounts = call["self"], list(call["pad"])
    dims = list(call.labels(x))
    given = [call.settled(amount) for amount in call.given("pad", amounts)]
    for pair in range(len(amounts) // 2):
        axis = x.ndim - 1 - pair
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        labels = dims[axis]
        if labels is None or (before == 0 and after == 0):
            continue
        if min(before, after) < 0 or any(isinstance(amount, Size) for amount in given):
            call.freeze(labels, "padding that cuts, or whose amount follows a size")
        code = fixed_code(call.reason("padding of a constant number of channels"))
        start, stop = max(0, -before), len(labels) - max(0, -after)
        added = (max(0, before), max(0, after))
        dims[axis] = np.pad(labels[start:stop], added, constant_values=code)
    call.give(call.out, dims, zero=True)


@rule("expand")
def expand(call: OperatorCall) -> None:
    """A dimension of size one becomes any size, and follows whatever it meets."""
    x, shape = call["self"], call.out.shape
    lead = len(shape) - x.ndim
    example = call.written("other")  # expand_as
    others = (None,) * len(shape) if example is None else call.labels(example)
    given = call.given("size", call["size"])
    own, before = (None,) * lead + call.labels(x), (1,) * lead + tuple(x.shape)
    dims: list[LabelArray] = []
    for axis, (labels, old, new) in enumerate(zip(own, before, shape, strict=True)):
        if old != 1 or new == 1:
            dims.append(labels)
        elif example is not None:
            dims.append(others[axis])
        elif given[axis] is None:
            dims.append(np.full(new, ELASTIC, dtype=np.int64))
        else:
            dims.append(call.size_labels(given[axis], new))
    call.give(call.out, dims, zero=True)


@rule("repeat", "tile")
def repeat(call: OperatorCall) -> None:
    """A dimension is laid down several times, with its labels."""
    x, times = call["self"], list(call.get("repeats", call.get("dims")))
    own = (None,) * (len(times) - x.ndim) + call.labels(x)
    given = call.given("repeats", times)
    dims: list[LabelArray] = []
    for labels, count, size, length in zip(own, times, given, call.out.shape, strict=True):
        if labels is None:
            dims.append(call.size_labels(size, length) if count == length else None)
        else:
            call.stays(size, "its size counts repetitions")
            dims.append(np.tile(labels, count))
    call.give(call.out, dims, zero=True)


@rule("glu")
def glu(call: OperatorCall) -> None:
    """First half times the sigmoid of the second: the i-th of each half unite."""
    axis = call["dim"]
    dims = list(call.labels(call["self"]))
    labels = dims[axis]
    if labels is not None:
        half = len(labels) // 2
        dims[axis] = call.unite(labels[:half], labels[half:])
    call.give(call.out, dims, zero=True)


@rule("as_strided")
def as_strided(call: OperatorCall) -> None:
    """New strides over the same memory; harmless where every real dimension keeps its own."""
    shape, strides = call.layout(call["self"])
    same = shape == tuple(call["size"]) and all(
        before == after
        for size, before, after in zip(shape, strides, call["stride"], strict=True)
        if size > 1
    )
    if same:
        call.give(call.out, call.labels(call["self"]), zero=True)
    else:
        call.freeze_all("memory is read with other strides")
