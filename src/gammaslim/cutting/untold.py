"""Tells an optimizer that still works with the shapes before a cut, in words, that it does."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Size, Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gammaslim.errors import OptimizerError

_before_cut: dict[int, tuple[weakref.ref[Tensor], Size]] = {}
"""Shapes that cut parameters had, by the parameter's id."""

_looked_at: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
"""How many cuts there were when an optimizer was last looked at."""

_cuts: list[None] = []


def remember(shapes: Mapping[nn.Parameter, Size]) -> None:
    """After a cut: these parameters had these shapes before it.

    An optimizer whose state still has them raises :class:`OptimizerError` at its next step, where
    PyTorch would complain of two sizes.  Every optimizer is looked at once after each cut.
    """
    for key in [key for key, (parameter, _) in _before_cut.items() if parameter() is None]:
        del _before_cut[key]
    for parameter, shape in shapes.items():
        _before_cut[id(parameter)] = (weakref.ref(parameter), shape)
    if not _cuts:
        register_optimizer_step_pre_hook(_look)
    _cuts.append(None)


def _look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001 -- torch's signature
    if _looked_at.get(optimizer) == len(_cuts):
        return
    for parameter, state in optimizer.state.items():
        known = _before_cut.get(id(parameter))
        if known is None or known[0]() is not parameter or parameter.shape == known[1]:
            continue
        shape = known[1]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape:
                raise OptimizerError(
                    f"This {type(optimizer).__name__} has a state {name!r} of shape {tuple(shape)} "
                    f"for a parameter that was cut to {tuple(parameter.shape)}: it was never told "
                    "of the cut. Use gs.prune(..., optimizer=optimizer), or make a new optimizer."
                )
    _looked_at[optimizer] = len(_cuts)
