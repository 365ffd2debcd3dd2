"""Operators that fold channels into one another, or unfold them: pixel shuffle, im2col, others."""

from __future__ import annotations

import math

import numpy as np

from gammaslim.labels import LabelArray
from gammaslim.recording import OperatorCall
from gammaslim.rules.registry import rule


@rule("pixel_shuffle")
def pixel_shuffle(call: OperatorCall) -> None:
    """r² consecutive channels become one."""
    *lead, channels, _, _ = call.labels(call["self"])
    factor = call["upscale_factor"] ** 2
    if channels is not None:
        parts = channels.reshape(-1, factor).T
        call.tie(parts, f"{factor} channels are folded into one")
        channels = parts[0].copy()
    call.give(call.out, (*lead, channels, None, None), zero=True)


@rule("col2im")
def col2im(call: OperatorCall) -> None:
    """k₁ k₂ consecutive channels become one."""
    *lead, rows, _ = call.labels(call["self"])
    if rows is not None:
        parts = rows.reshape(-1, math.prod(call["kernel_size"])).T
        call.tie(parts, "columns are folded into an image")
        rows = parts[0].copy()
    call.give(call.out, (*lead, rows, None, None), zero=True)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: OperatorCall) -> None:
    """One channel becomes r² consecutive ones."""
    _repeat_channels(call, call["downscale_factor"] ** 2)


@rule("im2col")
def im2col(call: OperatorCall) -> None:
    """One channel becomes k₁ k₂ consecutive rows."""
    _repeat_channels(call, math.prod(call["kernel_size"]))


def _repeat_channels(call: OperatorCall, factor: int) -> None:
    axis = call["self"].ndim - 3
    channels = call.labels(call["self"])[axis]
    dims: list[LabelArray] = [None] * call.out.ndim
    dims[axis] = None if channels is None else np.repeat(channels, factor)
    call.give(call.out, dims, zero=True)
