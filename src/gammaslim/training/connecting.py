"""Attaches a penalty to an optimizer, so that it acts inside ``optimizer.step()``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.channels import ChannelGraph
from gammaslim.errors import (
    GammaslimWarning,
    OptimizerError,
    PenaltyError,
    StaleGraphError,
)
from gammaslim.network import PROCESS, local, named_tensors
from gammaslim.penalties import AnyPenalty
from gammaslim.training.attachment import Attachment
from gammaslim.training.flat_vector import Atlas, Layout, owning, penalised_tensors
from gammaslim.training.forecasting import Rates


def attach(  # noqa: PLR0913 -- what a user may want to say is keyword-only
    model: nn.Module,
    graph: ChannelGraph,
    optimizer: Optimizer | Sequence[Optimizer],
    penalty: AnyPenalty,
    *,
    total_steps: int | None = None,
    lr: Rates | None = None,
    ema: nn.Module | None = None,
) -> Attachment:
    """Let ``penalty`` act on the prunable scales at each ``optimizer.step()``.

    A gradient term is added by a step pre-hook: after the trainer has accumulated, unscaled and
    clipped the gradients, or after the closure has made them.  Optimizers that unscale inside
    ``step`` get it multiplied by their ``grad_scale``.  The model is not modified, and scales
    without a gradient at a step are left alone.  What shrinks values (``Proximal``, ``Budget``)
    acts in a step post-hook instead, on what the step has made.

    Args:
        model: the network that ``graph`` was traced from, possibly wrapped (DDP, compiled) or
            sharded since (FSDP2).
        graph: its channels; the scales of prunable ones are penalised.
        optimizer: the one that trains those scales, or a list of those that do.
        penalty: for instance ``L1(1e-4)`` or ``Budget(keep_macs=0.5, steps=10_000)``.
        total_steps: how many optimizer steps the training will have; with it, the forecast is made
            at once, and a strength that cannot bring scales to zero is warned about.
        lr: the learning rate over those steps, see :meth:`Attachment.forecast`.
        ema: a copy of the network that averages its weights (``AveragedModel``, or any module with
            the same parameter names): it gets the same exact zeros.

    Returns:
        A handle; ``.detach()`` ends it, as does leaving it as a context manager.

    Raises:
        PenaltyError: ``penalty`` is not a penalty, or takes more than ``total_steps``.
        TargetError: a budget cannot be met; the text names the lowest that can.
        NothingToPruneError: no prunable channel holds a scale.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.  Also
            raised by ``optimizer.step()`` if the network is cut while attached.
        OptimizerError: the optimizer would move none of the penalised scales (a budget: not all),
            or is penalising some of them already.

    Warns:
        GammaslimWarning: the optimizer does not own some of the trainable penalised scales, or
            the forecast says that they will not reach zero.
    """
    if not isinstance(penalty, AnyPenalty):
        raise PenaltyError(f"A penalty such as L1(1e-4) is needed; found {penalty!r}.")
    listed = optimizer if isinstance(optimizer, list | tuple) and optimizer else [optimizer]
    optimizers = [_innermost(each) for each in listed]
    names, parameters = penalised_tensors(model, graph, shifts=penalty.on_shifts)
    _check_owned(optimizers, names, parameters, whole=penalty.zero_at is not None)
    for each in optimizers:
        for attachment in PROCESS.handles(each):
            if attachment.covers(parameters):
                raise OptimizerError(
                    f"This optimizer already penalises scales of this network: {attachment!r}. "
                    "Detach that first; two penalties on one scale would add up."
                )
    atlas = Atlas.of(graph, names)
    layout = Layout.of(atlas, parameters, optimizers, penalty.channel_weights)
    copies = None if ema is None else _copies(ema, layout)
    handle = Attachment(penalty, graph, layout, optimizers, copies)
    if total_steps is not None:
        try:
            ahead = handle.forecast(total_steps, lr)
        except PenaltyError:
            handle.detach()
            raise
        if ahead.falls_short:
            warnings.warn(str(ahead), GammaslimWarning, stacklevel=2)
    return handle


def _innermost(optimizer: object) -> Optimizer:
    """The torch optimizer itself: Accelerate and Lightning hand out wrappers without hooks."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(
            f"A torch.optim.Optimizer is needed; found {type(optimizer).__name__}."
        )
    return optimizer


def _check_owned(
    optimizers: Sequence[Optimizer],
    names: Sequence[str],
    parameters: Sequence[nn.Parameter],
    *,
    whole: bool,
) -> None:
    """Be loud unless the optimizers own all penalised tensors that are trained.

    ``whole``: a budget can only be met where every one of them moves.
    """
    owned = np.array([owner[0] >= 0 for owner in owning(optimizers, parameters)], dtype=np.bool_)
    trainable = np.array([parameter.requires_grad for parameter in parameters], dtype=np.bool_)
    kinds = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
    if not (owned & trainable).any():
        held = sum(len(group["params"]) for opt in optimizers for group in opt.param_groups)
        lack = "are all frozen (requires_grad=False)" if owned.any() else "are not among them"
        raise OptimizerError(
            f"The penalty acts on {len(names)} scale tensors through {kinds}, "
            f"which holds {held} parameters, but those scales {lack}: first {names[0]!r}. "
            "Attach the optimizer that trains this network's BatchNorm weights."
        )
    if whole and len(fixed := np.flatnonzero(~(owned & trainable))):
        raise OptimizerError(
            f"A budget brings every channel that may go to zero, but {len(fixed)} of the "
            f"{len(names)} scale and shift tensors are not trained by {kinds}, first "
            f"{names[fixed[0]]!r}. Trace with ignore= for those layers, or train them."
        )
    missing = np.flatnonzero(~owned & trainable)
    if len(missing):
        warnings.warn(
            f"The optimizer does not own {len(missing)} of the {len(names)} penalised scale "
            f"tensors, first {names[missing[0]]!r}: those get no penalty. Give them to this "
            "optimizer, attach a list of all optimizers, or set requires_grad=False if they are "
            "meant to stay.",
            GammaslimWarning,
            stacklevel=3,
        )


_WRAPPED = ("module", "_orig_mod")
"""What averages, parallel and compiled wrappers call what they wrap."""


def _copies(ema: nn.Module, layout: Layout) -> list[Tensor]:
    """The averages of the penalised tensors, in a copy or inside the wrappers around it."""
    present = named_tensors(ema)
    while layout.atlas.names[0] not in present:
        inner = next((m for n, m in ema.named_children() if n in _WRAPPED), None)
        if inner is None:
            break
        ema, present = inner, named_tensors(inner)
    for name, parameter, width in zip(
        layout.atlas.names, layout.parameters, layout.widths, strict=True
    ):
        found = present.get(name)
        if found is None or found.shape != parameter.shape:
            raise StaleGraphError(
                f"ema= should be an average of the network attached to; {name!r} has the shape "
                f"{tuple(parameter.shape)} there and "
                f"{'is missing' if found is None else tuple(found.shape)} in it. "
                "Average the network that is trained, or pass the copy inside the wrapper."
            )
        if local(found).numel() != width:
            raise StaleGraphError(
                f"ema= should be sharded like the network; of {name!r} this process holds {width} "
                f"elements there and {local(found).numel()} in it. Copy the network after it was "
                "sharded."
            )
    return [present[name] for name in layout.atlas.names]
