"""Operators that take or reorder indices of a dimension by their position."""

from __future__ import annotations

from gammaslim.labels.store import LabelArray
from gammaslim.network.input_index import selected_places
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.rules.registry import rule
from gammaslim.rules.shapes import pass_on


@rule("select")
def select(recorder: Recorder, op: Op) -> None:
    """One index of a dimension: along channels, a constant position cannot follow."""
    dims = list(recorder.dims(op["self"]))
    recorder.freeze(dims.pop(op["dim"]), "single channels are taken by their position")
    pass_on(recorder, op, dims)


@rule("unbind")
def unbind(recorder: Recorder, op: Op) -> None:
    """Every index of a dimension by itself."""
    dims = list(recorder.dims(op["self"]))
    recorder.freeze(dims.pop(op.get("dim", 0)), "single channels are taken by their position")
    for out in op.outputs:
        recorder.give(out, dims, zero=recorder.labels(op["self"]).zero)


@rule("flip")
def flip(recorder: Recorder, op: Op) -> None:
    """Labels in reverse order: whatever survives keeps that order."""
    dims = list(recorder.dims(op["self"]))
    for axis in op["dims"]:
        labels = dims[axis]
        dims[axis] = None if labels is None else labels[::-1].copy()
    pass_on(recorder, op, dims)


@rule("roll")
def roll(recorder: Recorder, op: Op) -> None:
    """Rolled channels would land elsewhere after a cut: they are kept; other dimensions pass."""
    dims = list(recorder.dims(op["self"]))
    for axis in op["dims"] or range(len(dims)):
        recorder.freeze(dims[axis], "channels are rolled by a constant")
    pass_on(recorder, op, dims)


@rule("index", "index_select", "gather", "_unsafe_index", "take_along_dim")
def index(recorder: Recorder, op: Op) -> None:
    """Dimensions that are indexed by position are kept; all others pass."""
    x = op["self"]
    dims = list(recorder.dims(x))
    if "indices" not in op.arguments:
        _index_one(recorder, op, dims)
        return
    indices = op["indices"]
    used = [i for i, item in enumerate(indices) if item is not None]
    for axis in used:
        recorder.freeze(dims[axis], "channels are taken by constant positions")
    for item in indices:
        for labels in recorder.dims(item) if item is not None else ():
            recorder.freeze(labels, "dimension of an index tensor")
    added = op.out.ndim - (x.ndim - len(used))
    together = used == list(range(used[0], used[-1] + 1)) if used else True
    rest: list[LabelArray] = [d for i, d in enumerate(dims) if i not in used]
    place = (used[0] if used else 0) if together else 0
    rest[place:place] = [None] * added
    pass_on(recorder, op, rest)


def _index_one(recorder: Recorder, op: Op, dims: list[LabelArray]) -> None:
    axis = op["dim"]
    places = selected_places(recorder.module, op["index"])
    if places is None:
        recorder.freeze(dims[axis], "channels are taken by constant positions")
        dims[axis] = None
    else:
        dims[axis] = recorder.streams.pick(dims[axis], op["self"].shape[axis], places)
    if op["self"].ndim == op["index"].ndim and "gather" in op.name:
        reason = "dimension of an index tensor"
        for labels in (*recorder.dims(op["index"]), *dims):
            recorder.freeze(labels, reason)
        dims = [None] * len(dims)
    pass_on(recorder, op, dims)


@rule("unfold")
def unfold(recorder: Recorder, op: Op) -> None:
    """Sliding windows along one dimension, put last."""
    dims = list(recorder.dims(op["self"]))
    recorder.freeze(dims[op["dimension"]], "windows slide along the channels")
    dims[op["dimension"]] = None
    pass_on(recorder, op, [*dims, None])
