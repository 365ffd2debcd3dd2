"""Tells an optimizer that still works with the shapes before a cut, in words, that it does."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Size, Tensor, nn
from torch.optim import Optimizer

from gammaslim.errors import OptimizerError
from gammaslim.network import PROCESS


def remember(shapes: Mapping[nn.Parameter, Size]) -> None:
    """After a cut: these parameters had these shapes before it.

    An optimizer whose state still has them raises :class:`OptimizerError` at its next step, where
    PyTorch would complain of two sizes.  Every optimizer is looked at once after each cut.
    """
    PROCESS.cut(shapes, _look)


def _look(optimizer: Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        known = isinstance(parameter, Tensor)
        shape = PROCESS.shape_before_cut(parameter) if known else None
        if shape is None or parameter.shape == shape:
            continue
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape:
                raise OptimizerError(
                    f"This {type(optimizer).__name__} has a state {name!r} of shape {tuple(shape)} "
                    f"for a parameter that was cut to {tuple(parameter.shape)}: it was never told "
                    "of the cut. Use gs.prune(..., optimizer=optimizer), or make a new optimizer."
                )
