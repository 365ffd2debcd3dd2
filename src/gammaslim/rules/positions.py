"""Operators that take or reorder indices of a dimension by their position."""

from __future__ import annotations

from gammaslim.labels import LabelArray
from gammaslim.network import selected_places
from gammaslim.recording import OperatorCall
from gammaslim.rules.registry import rule

BY_POSITION = "single channels are taken by their position"
CONSTANT_POSITIONS = "channels are taken by constant positions"
OF_AN_INDEX = "dimension of an index tensor"


@rule("select")
def select(call: OperatorCall) -> None:
    """One index of a dimension: along channels, a constant position cannot follow."""
    dims = list(call.labels(call["self"]))
    call.freeze(dims.pop(call["dim"]), BY_POSITION)
    call.give(call.out, dims, zero=True)


@rule("unbind")
def unbind(call: OperatorCall) -> None:
    """Every index of a dimension by itself."""
    dims = list(call.labels(call["self"]))
    call.freeze(dims.pop(call.get("dim", 0)), BY_POSITION)
    for out in call.outputs:
        call.give(out, dims, zero=True)


@rule("flip")
def flip(call: OperatorCall) -> None:
    """Labels in reverse order: whatever survives keeps that order."""
    dims = list(call.labels(call["self"]))
    for axis in call["dims"]:
        labels = dims[axis]
        dims[axis] = None if labels is None else labels[::-1].copy()
    call.give(call.out, dims, zero=True)


@rule("roll")
def roll(call: OperatorCall) -> None:
    """Rolled channels would land elsewhere after a cut: they are kept; other dimensions pass."""
    dims = call.labels(call["self"])
    for axis in call["dims"] or range(len(dims)):
        call.freeze(dims[axis], "channels are rolled by a constant")
    call.give(call.out, dims, zero=True)


@rule("index", "_unsafe_index")
def index(call: OperatorCall) -> None:
    """Dimensions that are indexed by position are kept; all others pass."""
    x, indices = call["self"], call["indices"]
    dims = call.labels(x)
    used = [axis for axis, item in enumerate(indices) if item is not None]
    for axis in used:
        call.freeze(dims[axis], CONSTANT_POSITIONS)
        for labels in call.labels(indices[axis]):
            call.freeze(labels, OF_AN_INDEX)
    # What the index tensors make stands where they stood, or first where others lie between them.
    together = used == list(range(used[0], used[-1] + 1)) if used else True
    place = used[0] if used and together else 0
    rest: list[LabelArray] = [labels for axis, labels in enumerate(dims) if axis not in used]
    rest[place:place] = [None] * (call.out.ndim - len(rest))
    call.give(call.out, rest, zero=[x])


@rule("index_select", "gather", "take_along_dim")
def index_one(call: OperatorCall) -> None:
    """Along one dimension indices are taken by position; a BatchNorm's own index follows a cut."""
    x, axis = call["self"], call["dim"]
    dims = list(call.labels(x))
    places = selected_places(call.module, call["index"])
    if places is None:
        call.freeze(dims[axis], CONSTANT_POSITIONS)
        dims[axis] = None
    else:
        dims[axis] = call.picks(dims[axis], x.shape[axis], places)
    if call.operator == "gather":
        for labels in (*call.labels(call["index"]), *dims):
            call.freeze(labels, OF_AN_INDEX)
        dims = [None] * len(dims)
    call.give(call.out, dims, zero=[x])


@rule("unfold")
def unfold(call: OperatorCall) -> None:
    """Sliding windows along one dimension, put last."""
    dims = list(call.labels(call["self"]))
    call.freeze(dims[call["dimension"]], "windows slide along the channels")
    dims[call["dimension"]] = None
    call.give(call.out, [*dims, None], zero=True)
