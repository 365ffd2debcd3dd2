"""Fourier transforms and complex numbers."""

from __future__ import annotations

from gammaslim.recording import OperatorCall
from gammaslim.rules.registry import rule


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(call: OperatorCall) -> None:
    """Linear along some dimensions, whose channels are kept; all others pass."""
    dims = list(call.labels(call["self"]))
    for axis in call["dim"]:
        call.freeze(dims[axis], "a Fourier transform runs along the channels")
        dims[axis] = None
    call.give(call.out, dims, zero=True)


@rule("view_as_real")
def parts(call: OperatorCall) -> None:
    """Real and imaginary part in a new last dimension."""
    call.give(call.out, (*call.labels(call["self"]), None), zero=True)


@rule("view_as_complex")
def joined(call: OperatorCall) -> None:
    """The last dimension, of size two, becomes one complex number."""
    *lead, pair = call.labels(call["self"])
    call.freeze(pair, "two channels become one complex number")
    call.give(call.out, lead, zero=True)
