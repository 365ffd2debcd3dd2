"""The shrink budget: how far a penalty can move scales in a training, and the λ that suffices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, NAdam, Optimizer, RAdam, RMSprop

from gammaslim.arrays import FloatArray
from gammaslim.channels import ChannelGraph
from gammaslim.errors import PenaltyError
from gammaslim.network import local
from gammaslim.penalties import L1, AnyPenalty, ByStrength, Scales
from gammaslim.training.flat_vector import Atlas, Layout, penalised_tensors

Rates = float | Sequence[float] | Callable[[int], float]
"""A learning rate for all steps, one for each, or a function of the step."""


@dataclass(frozen=True)
class Forecast:
    """What a penalty can reach if the loss does not resist; an upper bound.

    ``reach``: how far it can move a scale over the training (the median over channels); NaN where
    that is not known, infinite where zero is reached whatever the distance.  ``median``: how far
    the median channel is from zero now.  ``share``: of the prunable channels, those that can reach
    zero, 0 to 1.  ``strength``: the λ at which half of them can, ``None`` where λ makes no
    difference.  ``note``: what else there is to know.
    """

    penalty: str
    steps: int
    reach: float
    median: float
    share: float
    strength: float | None
    note: str = ""

    @property
    def falls_short(self) -> bool:
        """Whether not even the median channel can reach zero."""
        return self.reach < self.median

    def __str__(self) -> str:
        """What was asked, what it can do, and what to do about it."""
        if np.isinf(self.reach):
            return f"{self.penalty} brings what it chooses to exactly zero, whatever the distance."
        if np.isnan(self.share):
            return f"How far {self.penalty} moves scales is not known."
        verdict = f"{self.share:.0%} of the prunable channels can reach zero"
        advice = ""
        if self.falls_short:
            verdict = "most channels will not come near zero and the cut will cost accuracy"
            advice = " Train longer or with a higher learning rate."
            if self.strength is not None:
                advice = f" A strength of {self.strength:.2g} or more would do, or gs.Budget."
        note = f" {self.note}" if self.note else ""
        return (
            f"{self.penalty} can move scales by at most {self.reach:.3g} in {self.steps} steps; "
            f"the median channel is {self.median:.3g} from zero: {verdict}.{advice}{note}"
        )


def forecast(
    penalty: AnyPenalty,
    optimizers: Sequence[Optimizer],
    layout: Layout,
    total_steps: int,
    lr: Rates | None = None,
) -> Forecast:
    """The shrink budget of a penalty; see :meth:`gammaslim.Attachment.forecast`.

    Under SGD with momentum m and dampening d a scale moves by ``Σ_t λ_t η_t (1 - d) / (1 - m)`` at
    most; in a proximal step by ``Σ_t λ_t η_t``, whatever the optimizer.  Adam and its kin divide a
    gradient by the root v of its mean square, so that λ cancels where the loss is silent: at most
    ``Σ_t η_t min(1, λ_t / v)``, with v as it is now, or 0 before the first step.
    """
    if not isinstance(total_steps, int) or isinstance(total_steps, bool) or total_steps < 1:
        raise PenaltyError(f"total_steps={total_steps!r} was given; an integer above 0 is needed.")
    if penalty.length > total_steps:
        raise PenaltyError(
            f"{penalty!r} takes {penalty.length} optimizer steps, but the training has "
            f"{total_steps}. Give it the number of steps that there are."
        )
    atlas = layout.atlas
    channels = torch.from_numpy(atlas.channels)
    scales = Scales(torch.from_numpy(layout.whole()), channels, len(atlas.numbers), 1.0)
    free = np.bincount(atlas.channels[atlas.free], minlength=len(atlas.numbers)) > 0
    away = penalty.distances(scales).numpy()[free]
    if penalty.strength_at(0) is None:
        reach, share = (np.nan, np.nan) if penalty.zero_at is None else (np.inf, 1.0)
        return Forecast(repr(penalty), total_steps, reach, float(np.median(away)), share, None)
    curve = np.array([penalty.strength_at(step) for step in range(total_steps)], dtype=np.float64)
    pace = _paces(penalty, optimizers, layout, _rates(lr, total_steps), curve)
    units = np.array([pace[name].unit if name in pace else 0.0 for name in atlas.names])
    values = np.repeat(units, atlas.widths)
    if penalty.channel_weights is not None:
        values = values * penalty.channel_weights[atlas.numbers][atlas.channels]
    # A channel is as slow as its slowest scale.
    reach = np.full(len(atlas.numbers), np.inf)
    with np.errstate(invalid="ignore"):  # NaN where an optimizer is not known
        np.minimum.at(reach, atlas.channels, values)
    reach = reach[free]
    notes = " ".join(sorted({each.note for each in pace.values() if each.note}))
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = float(np.median(away / reach)) * float(curve.max())
    return Forecast(
        penalty=repr(penalty),
        steps=total_steps,
        reach=float(np.median(reach)),
        median=float(np.median(away)),
        share=float(np.mean(reach >= away)),
        strength=needed if np.isfinite(needed) and not notes else None,
        note=notes,
    )


@dataclass(frozen=True)
class _Pace:
    """How far a training moves the scales of one tensor, and a caveat."""

    unit: float
    note: str = ""


def _paces(
    penalty: AnyPenalty,
    optimizers: Sequence[Optimizer],
    layout: Layout,
    rates: FloatArray | None,
    curve: FloatArray,
) -> dict[str, _Pace]:
    """Of every tensor that the optimizers train."""
    found: dict[str, _Pace] = {}
    for optimizer in optimizers:
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in zip(layout.atlas.names, layout.parameters, strict=True):
            group = group_of.get(id(parameter))
            if group is not None and parameter.requires_grad:
                steps = np.full(len(curve), float(group["lr"])) if rates is None else rates
                found[name] = (
                    _pace(optimizer, group, parameter, steps, curve)
                    if penalty.on_gradients
                    else _Pace(float(curve @ steps))
                )
    return found


def _pace(
    optimizer: Optimizer,
    group: dict[str, Any],
    parameter: Tensor,
    rates: FloatArray,
    curve: FloatArray,
) -> _Pace:
    """Of one tensor under a gradient penalty."""
    if isinstance(optimizer, SGD):
        momentum = group["momentum"]
        gain = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
        return _Pace(float(curve @ rates) * gain)
    if not isinstance(optimizer, Adam | NAdam | RAdam | RMSprop):
        return _Pace(float("nan"), f"What {type(optimizer).__name__} makes of λ is not known.")
    state = optimizer.state.get(parameter, {})
    square = state.get("exp_avg_sq", state.get("square_avg"))
    root = 0.0 if square is None else float(local(square).float().mean().sqrt())
    share = curve / np.maximum(np.maximum(curve, root), 1e-300)
    return _Pace(
        float(share @ rates),
        f"{type(optimizer).__name__} divides gradients by their size, so that λ hardly matters: "
        "Proximal or Budget do not depend on the optimizer.",
    )


def _rates(lr: Rates | None, steps: int) -> FloatArray | None:
    if lr is None:
        return None
    if callable(lr):
        values = np.array([lr(step) for step in range(steps)], dtype=np.float64)
    else:
        values = np.asarray(lr, dtype=np.float64)
    if values.shape not in ((), (steps,)) or not np.isfinite(values).all() or (values < 0).any():
        raise PenaltyError(
            f"lr was given with the shape {values.shape}; a forecast over {steps} steps needs one "
            f"learning rate, {steps} of them, or a function of the step; none negative or NaN."
        )
    return np.broadcast_to(values, (steps,))


def suggest_strength(  # noqa: PLR0913 -- all but the pipeline's three are keyword-only
    model: nn.Module,
    graph: ChannelGraph,
    optimizer: Optimizer,
    *,
    total_steps: int,
    lr: Rates | None = None,
    penalty: Callable[[float], ByStrength] = L1,
    margin: float = 2.0,
) -> float:
    """The λ whose shrink budget is ``margin`` times what the median channel is from zero.

    For ``L1`` under SGD with momentum m: ``λ = margin · median |γ| · (1 - m) / Σ_t η_t``.  The loss
    holds on to channels that matter, so that twice the distance is a start, not a guarantee.

    Args:
        model: the network that ``graph`` was traced from, with the scales it has now.
        graph: its channels.
        optimizer: the one that trains it.
        total_steps: optimizer steps of the training with the penalty.
        lr: the learning rate over those steps: a number, one per step, or a function of the step;
            ``None`` takes the optimizer's present one.
        penalty: the class of penalty, such as ``gs.GroupLasso``, or what makes one of a strength.
        margin: how many times the distance; above 0.

    Raises:
        PenaltyError: λ makes no difference under this optimizer, or an argument cannot be used.
        NothingToPruneError: no prunable channel holds a scale.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
    """
    if not margin > 0:
        raise PenaltyError(f"margin={margin!r} was asked; it must be above 0.")
    probe = penalty(1.0)
    names, parameters = penalised_tensors(model, graph, shifts=probe.on_shifts)
    layout = Layout.of(Atlas.of(graph, names), parameters, [optimizer])
    ahead = forecast(probe, [optimizer], layout, total_steps, lr)
    if ahead.strength is None:
        why = ahead.note or "no scale can move: their learning rate is 0, or they are not trained."
        raise PenaltyError(f"No strength of {type(probe).__name__} can be suggested: {why}")
    return margin * ahead.strength
