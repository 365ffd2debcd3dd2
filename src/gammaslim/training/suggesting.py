"""The strength at which a penalty can bring scales to zero, before anything is attached."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from gammaslim.channels.graph import ChannelGraph
from gammaslim.errors import PenaltyError
from gammaslim.penalties import L1, GroupLasso, Polarization, Proximal
from gammaslim.training.connecting import lay_out, penalised_tensors
from gammaslim.training.forecasting import Rates, forecast

Simple = type[L1] | type[GroupLasso] | type[Polarization] | type[Proximal]


def suggest_strength(  # noqa: PLR0913 -- all but the pipeline's three are keyword-only
    model: nn.Module,
    graph: ChannelGraph,
    optimizer: Optimizer,
    *,
    total_steps: int,
    lr: Rates | None = None,
    penalty: Simple = L1,
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
        penalty: the class of penalty, such as ``gs.GroupLasso``.
        margin: how many times the distance; above 0.

    Raises:
        PenaltyError: λ makes no difference under this optimizer, or an argument cannot be used.
        NothingToPruneError: no prunable channel holds a scale.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
    """
    if not margin > 0:
        raise PenaltyError(f"margin={margin!r} was asked; it must be above 0.")
    probe = penalty(1.0)
    names, parameters = penalised_tensors(model, graph, probe)
    layout = lay_out(graph, names, parameters, [optimizer])
    ahead = forecast(probe, [optimizer], layout, total_steps, lr)
    if ahead.strength is None:
        why = ahead.note or "no scale can move: their learning rate is 0, or they are not trained."
        raise PenaltyError(f"No strength of {penalty.__name__} can be suggested: {why}")
    return margin * ahead.strength
