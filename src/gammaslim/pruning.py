"""The cut as the user sees it: check, cut, prove, or put everything back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.optim import Optimizer

from gammaslim.calling import describe
from gammaslim.errors import PlanError, TraceError, VerificationError
from gammaslim.graph import BoolArray, ChannelGraph, Cost
from gammaslim.modules import check_fresh, named_tensors, on_meta, unwrap
from gammaslim.plan import Plan
from gammaslim.select import changed_attributes
from gammaslim.surgery import apply_plan, check_optimizer, cuts_by_tensor, masked_state
from gammaslim.untold import remember
from gammaslim.verify import (
    Evidence,
    Noise,
    Verdict,
    compare,
    reference,
    rounding,
    training_failure,
)


@dataclass(frozen=True)
class Outcome:
    """What a cut did.

    ``drift``: largest change of any compared output, relative to that output's scale, against the
    masked network (``nan`` when it was not verified).  ``before``, ``after``: the cost.
    """

    drift: float
    before: Cost
    after: Cost
    plan: Plan
    message: str

    def __str__(self) -> str:
        """The outcome as one sentence."""
        return self.message


def prune(
    model: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    *,
    optimizer: Optimizer | None = None,
    verify: bool = True,
) -> Outcome:
    """Remove what ``plan`` does not keep, in place, and prove that nothing else changed.

    The law: ``pruned(x) = masked(x)``, where the masked network is the original with everything
    the plan removes set to zero.  It is compared at the output of every leaf module, on the
    example inputs of the trace.  Parameters keep their identity; their gradients and the state of
    ``optimizer`` are cut along, so that training goes on with the same objects.

    Args:
        model: the network that ``graph`` was traced from.
        graph: its channel graph; stale afterwards: trace again before the next cut.
        plan: from :func:`gammaslim.select` on this graph.
        optimizer: the optimizer that trains ``model``, if there is one.  One that is not told and
            goes on all the same raises :class:`OptimizerError` at its next step.
        verify: ``False`` skips the two forward passes of the comparison.

    Raises:
        StaleGraphError: the network no longer has the shapes that were traced.
        PlanError: the plan was made for another graph.
        TraceError: the network itself fails on the example inputs.
        OptimizerError: the optimizer owns none of the parameters, or its state cannot be cut.
        VerificationError: the law does not hold; the network has been restored.
    """
    model = unwrap(model)
    check_fresh(model, graph)
    keep = graph.keep_mask(plan)
    if changed_attributes(graph, keep) != dict(plan.attributes):
        raise PlanError(
            "The plan sets other size attributes than this graph asks for. Select a plan from "
            "this graph."
        )
    if optimizer is not None:
        check_optimizer(model, plan, optimizer)
    before, after = graph.cost(), graph.cost_of(keep)
    cut = cuts_by_tensor(plan)
    shapes = {p: p.shape for name, p in model.named_parameters() if name in cut}
    meta = on_meta(named_tensors(model))
    if meta or not verify:
        apply_plan(model, plan, optimizer)
        remember(shapes)
        why = "weights are on the meta device" if meta else "verify=False"
        return Outcome(float("nan"), before, after, plan, f"Cut, not verified: {why}.")
    verdict = _cut_and_judge(model, graph, plan, keep, optimizer)
    if not verdict.holds:
        raise VerificationError(
            f"The cut network does not compute what the masked one computes: {verdict.message}. "
            "The network has been restored. Keep that layer with ignore=, and please report it."
        )
    remember(shapes)
    message = (
        f"Cut and verified at {verdict.compared} outputs: drift {verdict.drift:.1e}, "
        f"MACs {before.macs:,} -> {after.macs:,}, parameters {before.params:,} -> {after.params:,}."
    )
    return Outcome(verdict.drift, before, after, plan, message)


def _cut_and_judge(
    model: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    keep: BoolArray,
    optimizer: Optimizer | None,
) -> Verdict:
    """Cut and compare; the cut stays only if the law holds.

    Where a fixed tolerance is exceeded, what rounding alone does to the masked network is measured,
    in float64 if possible, and the comparison is made once more.
    """
    masked = masked_state(model, plan)
    try:
        expected = reference(model, graph, keep, masked)
    except Exception as error:  # any failure of the user's own code
        raise TraceError(
            f"The network fails on the example inputs {describe(graph.example_inputs)} before any "
            f"cut; its own error is {type(error).__name__}: {error}. Trace it again with inputs "
            "that it accepts, or pass verify=False."
        ) from error
    noise: Noise | None = None
    while True:
        undo = apply_plan(model, plan, optimizer)
        try:
            verdict = _verdict(model, graph, expected, noise)
        except BaseException:
            undo()
            raise
        if verdict.holds:
            return verdict
        undo()
        if noise or not np.isfinite(verdict.drift):
            return verdict
        expected, noise = rounding(model, graph, keep, masked)


def _verdict(
    model: nn.Module,
    graph: ChannelGraph,
    expected: Evidence,
    noise: Noise | None,
) -> Verdict:
    """Compare in evaluation mode, then see that training mode still runs."""
    try:
        verdict = compare(model, graph, expected, noise)
    except Exception as error:  # noqa: BLE001 - any failure of the cut network's forward
        text = f"its forward fails with {type(error).__name__}: {error}"
        return Verdict(float("inf"), "forward", 0, text)
    if verdict.holds and graph.traced_in_training:
        error = training_failure(model, graph)
        if error is not None:
            text = f"its training-mode forward fails with {type(error).__name__}: {error}"
            return Verdict(float("inf"), "training mode", verdict.compared, text)
    return verdict
