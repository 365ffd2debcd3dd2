"""Operators that cut a dimension into consecutive parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gammaslim.arrays import IntArray
from gammaslim.channels import Part
from gammaslim.recording import Given, OperatorCall, Size
from gammaslim.rules.registry import rule


@rule("slice")
def slice_(call: OperatorCall) -> None:
    """A range of one dimension; where it ends inside the channels, the boundary must follow."""
    axis = call["dim"]
    dims = list(call.labels(call["self"]))
    labels = dims[axis]
    if labels is not None:
        start, stop, step = slice(call["start"], call["end"], call["step"]).indices(len(labels))
        if step != 1:
            call.freeze(labels, f"every {step}-th channel is taken")
        elif isinstance(sections := call.written("indices_or_sections"), int):
            _cut_evenly(call, labels, sections, int(sections))
        else:
            for place, given in zip((start, stop), _boundaries(call), strict=True):
                _boundary(call, labels, place, given)
        dims[axis] = _part(call, labels, start, stop) if step == 1 else labels[start:stop:step]
    call.give(call.out, dims, zero=True)


def _part(call: OperatorCall, labels: IntArray, start: int, stop: int) -> IntArray:
    """The labels of a range, whose boundaries keep their share of the whole after any cut."""
    part = labels[start:stop]
    if stop - start not in (0, len(labels)):
        unit = math.gcd(start, stop, len(labels))
        call.derive(part, Part(start // unit, stop // unit, len(labels) // unit), labels)
    return part


def _boundaries(call: OperatorCall) -> tuple[Given, Given]:
    """How the code gave start and stop: as followed sizes where it did, else as constants."""
    start, stop = call["start"], call["end"]
    if isinstance(first := call.written("start"), int):  # narrow
        return first, first + call.written("length")
    if isinstance(indices := call.written("indices_or_sections"), list | tuple):  # tensor_split
        found = {int(place): place for place in indices}
        return found.get(start, start), found.get(stop, stop)
    if (index := call.written("index")) is not None:
        bounds = _slice_at(index, call["dim"], call.written("input").ndim)
        if bounds is not None:
            # A tensor that Python reads as an integer is a constant.
            start = bounds.start if isinstance(bounds.start, int | None) else start
            stop = bounds.stop if isinstance(bounds.stop, int | None) else stop
    return start, stop


def _slice_at(index: Any, axis: int, ndim: int) -> slice | None:
    """The slice of an index expression that is applied to dimension ``axis``.

    PyTorch applies the entries from the left.  In ``x[0, :, None, ..., :k]`` of five dimensions
    the integer takes the first one away, ``:`` is applied to dimension 0 of what is left, ``None``
    puts in dimension 1, ``...`` stands for two, and ``:k`` is applied to dimension 4.
    """
    entries = index if isinstance(index, tuple) else (index,)
    named = sum(_taken_and_left(entry)[0] for entry in entries)
    at = 0
    for entry in entries:
        if isinstance(entry, slice) and at == axis:
            return entry
        at += ndim - named if entry is ... else _taken_and_left(entry)[1]
    return None


def _taken_and_left(entry: Any) -> tuple[int, int]:
    """How many dimensions an entry of an index is applied to, and how many it leaves."""
    if entry is None or entry is ... or isinstance(entry, bool):
        return 0, 1
    if isinstance(entry, Tensor):
        if entry.dtype in (torch.bool, torch.uint8):
            return entry.ndim, 1
        return 1, min(entry.ndim, 1)
    return 1, 0 if isinstance(entry, int | np.integer) else 1


def _boundary(call: OperatorCall, labels: IntArray, place: int, given: Given) -> None:
    """Keep a boundary at ``place`` true: the part before it must have the computed size."""
    if place in (0, len(labels)) or given is None:
        return
    part = labels[place:] if given < 0 else labels[:place]
    if isinstance(given, Size):
        _tie_equal_parts(call, labels, given)
        call.follow(part, -given if given < 0 else given)
    else:
        call.freeze(part, f"the boundary {given} is written as a constant")


@rule("split", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split", "split_with_sizes",
      "unsafe_split_with_sizes")  # fmt: skip
def split(call: OperatorCall) -> None:
    """Consecutive parts of one dimension, each of which must keep the size the code gives it."""
    x = call["self"]
    axis = call.get("dim", 0) % x.ndim
    dims = list(call.labels(x))
    labels = dims[axis]
    widths = [out.shape[axis] for out in call.outputs]
    if labels is not None and (number := call.written("chunks")) is not None:
        _cut_evenly(call, labels, number, len(widths))
    elif labels is not None:
        start = 0
        for width, given in zip(widths, _given_parts(call, widths), strict=True):
            if isinstance(given, Size):
                _tie_equal_parts(call, labels, given)
            call.follow(labels[start : start + width], given)
            start += width
    start = 0
    for out, width in zip(call.outputs, widths, strict=True):
        if labels is not None:
            dims[axis] = _part(call, labels, start, start + width)
        start += width
        call.give(out, dims, zero=True)


def _given_parts(call: OperatorCall, widths: list[int]) -> list[Given]:
    """How the code gave the width of each part; the last one may be what is left over."""
    asked = call.get("split_sizes", call.get("split_size"))
    if not isinstance(asked, int):
        return call.given("split_size", asked)
    (size,) = call.given("split_size", [asked])
    full = isinstance(size, Size) and widths[-1] == asked
    return [size] * (len(widths) - 1) + [size if full else None]


def _cut_evenly(call: OperatorCall, labels: IntArray, number: int, parts: int) -> None:
    """Keep ``parts`` parts equal; the code asked for ``number`` of them, which must not change."""
    call.stays(number, "its size counts equal parts")
    if len(labels) % parts:
        call.freeze(labels, f"it is cut into {parts} unequal parts")
    elif parts > 1:
        _tie_parts(call, labels, parts)


def _tie_equal_parts(call: OperatorCall, labels: IntArray, given: Size) -> None:
    """Where the code takes a 1/k-th of its own size, keep the k parts equal."""
    parts = given.terms.parts
    if len(parts) != 1 or given.terms.variables or not np.array_equal(parts[0][0], labels):
        return
    number = parts[0][1].denominator
    if number > 1 and len(labels) % number == 0:
        _tie_parts(call, labels, number)


def _tie_parts(call: OperatorCall, labels: IntArray, parts: int) -> None:
    call.tie(labels.reshape(parts, -1), f"it is cut into {parts} equal parts", followed=True)
