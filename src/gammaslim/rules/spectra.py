"""Fourier transforms and complex numbers."""

from __future__ import annotations

from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.rules.registry import rule


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(recorder: Recorder, op: Op) -> None:
    """Linear along some dimensions, whose channels are kept; all others pass."""
    labels = recorder.labels(op["self"])
    dims = list(labels.dims)
    for axis in op["dim"]:
        recorder.freeze(dims[axis], "a Fourier transform runs along the channels")
        dims[axis] = None
    recorder.give(op.out, dims, zero=labels.zero)


@rule("view_as_real")
def parts(recorder: Recorder, op: Op) -> None:
    """Real and imaginary part in a new last dimension."""
    labels = recorder.labels(op["self"])
    recorder.give(op.out, (*labels.dims, None), zero=labels.zero)


@rule("view_as_complex")
def joined(recorder: Recorder, op: Op) -> None:
    """The last dimension, of size two, becomes one complex number."""
    labels = recorder.labels(op["self"])
    recorder.freeze(labels.dims[-1], "two channels become one complex number")
    recorder.give(op.out, labels.dims[:-1], zero=labels.zero)
