"""The cut as the user sees it: check, cut, prove, fold what was left behind, or put all back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.arrays import IntArray
from gammaslim.channels import ChannelGraph, Cost, Cut, Plan, cut_by, narrowed
from gammaslim.cutting.calibration import Calibration, reestimate
from gammaslim.cutting.contributions import (
    Contributions,
    Reading,
    has_constants,
    network_outputs,
    observe,
    settle,
)
from gammaslim.cutting.folding import Folded, add_bias, fold
from gammaslim.cutting.proving import Proof, prove
from gammaslim.cutting.stale import refuse_sharded, retire
from gammaslim.cutting.surgery import check_optimizer
from gammaslim.cutting.undoing import Undo
from gammaslim.cutting.verification import drift_between
from gammaslim.network import check_fresh, named_tensors, on_meta, unwrap


class Follower(Protocol):
    """What goes on with the channels that a cut leaves: the handle of an attached penalty."""

    def check_cut(self, graph: ChannelGraph) -> None:
        """Refuse a cut that it could not follow."""
        ...

    def follow(self, cut: Cut, graph: ChannelGraph) -> None:
        """Go on with what a cut has left; ``graph`` is that of the cut network."""
        ...


@dataclass(frozen=True)
class Change:
    """How far the outputs are from those of the uncut network, relative to their scale.

    ``before``: right after the cut; ``after``: when what was removed has been folded, and BatchNorm
    statistics re-estimated.
    """

    before: float
    after: float


@dataclass(frozen=True)
class Outcome:
    """What a cut did.

    ``drift``: largest change of any compared output, relative to that output's scale, against the
    masked network (``nan`` when it was not verified).  ``before``, ``after``: the cost.  ``graph``:
    the channels of the cut network.  ``folded``: what removed channels still contributed and where
    it went, and ``change``: what that did to the outputs, ``None`` if there was nothing to fold.
    """

    drift: float
    before: Cost
    after: Cost
    plan: Plan
    message: str
    graph: ChannelGraph = field(repr=False)
    folded: Folded = field(default_factory=Folded)
    change: Change | None = None

    def __str__(self) -> str:
        """The outcome as one sentence."""
        return self.message


def prune(  # noqa: PLR0913 -- what a user may want to say is keyword-only
    model: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    ema: nn.Module | None = None,
    handle: Follower | None = None,
    verify: bool = True,
    fold: bool = True,
    calibration: Iterable[Any] | None = None,
) -> Outcome:
    """Remove what ``plan`` does not keep, in place, and prove that nothing else changed.

    The law: ``pruned(x) = masked(x)``, where the masked network is the original with everything
    the plan removes set to zero.  It is compared at the output of every leaf module, on the
    example inputs of the trace.  Parameters keep their identity; their gradients and the state of
    ``optimizer`` are cut along, so that training goes on with the same objects.

    A removed channel may still have contributed something: a constant f(β) where its scales were
    zero and its shifts were not, or, if it was not zero at all, its mean.  The constants are folded
    into the layers that read them, so that the outputs stay those of the uncut network (exactly in
    the interior of an image; at borders padded zeros make a difference, see ``outcome.change``).
    With ``calibration``, so are the means, and BatchNorm statistics are estimated anew.

    Args:
        model: the network that ``graph`` was traced from.
        graph: its channel graph; stale afterwards: go on with ``outcome.graph``.
        plan: from :func:`gammaslim.select` on this graph.
        optimizer: the optimizer that trains ``model``, or a list of those that do.  One that is not
            told and goes on all the same raises :class:`OptimizerError` at its next step.
        ema: a copy that averages the network's weights: it is cut and folded alike.
        handle: what :func:`gammaslim.attach` returned: the penalty goes on with what is left.
        verify: ``False`` skips the two forward passes of the comparison.
        fold: ``False`` removes channels as if they contributed nothing.
        calibration: batches of data, such as a ``DataLoader``: what the trace took, or pairs that
            begin with it.  A hundred batches or so are enough.

    Raises:
        StaleGraphError: the network no longer has the shapes that were traced.
        PlanError: the plan was made for another graph, or a layer that is to leave has hooks.
        PenaltyError: ``handle`` is a budget that is not done yet.
        TraceError: the network itself fails on the example inputs.
        CalibrationError: the data cannot be used; the network has been restored.
        OptimizerError: the optimizer owns none of the parameters, or its state cannot be cut.
        VerificationError: the law does not hold; the network has been restored.
    """
    networks = [unwrap(each) for each in (model, ema) if each is not None]
    optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer or ())
    cut = _checked(networks, graph, plan, optimizers)
    if handle is not None:
        handle.check_cut(graph)
    done: list[_Pruning] = []
    try:
        for network, owners in zip(networks, (optimizers, ()), strict=False):
            whole = _Pruning(network, cut)
            done.append(whole)
            whole.run(owners, verify=verify, folds=fold, calibration=calibration)
        # Where one network was given a bias, so is its average: both have the same parameters.
        for name in {name for whole in done for name in whole.added}:
            for whole in done:
                whole.ensure_bias(name)
    except BaseException:
        for whole in done:
            whole.restore()
        raise
    for network in networks:
        retire(network)
    outcome = done[0].outcome()
    if handle is not None:
        handle.follow(cut, outcome.graph)
    return outcome


def _checked(
    networks: Sequence[nn.Module],
    graph: ChannelGraph,
    plan: Plan,
    optimizers: Sequence[Optimizer],
) -> Cut:
    """The cut, if the plan fits the graph, and the graph the networks."""
    for network in networks:
        refuse_sharded(network)
        check_fresh(network, graph.shapes)
    cut = cut_by(graph, plan)
    for optimizer in optimizers:
        check_optimizer(networks[0], plan, optimizer)
    return cut


class _Pruning:
    """One network on its way through a cut: what has been done to it, and how to take it back."""

    def __init__(self, model: nn.Module, cut: Cut) -> None:
        self._model, self._cut = model, cut
        self._undo = Undo()
        self._proof: Proof | None = None
        self._folded, self._change = Folded(), None

    def run(
        self,
        optimizers: Sequence[Optimizer],
        *,
        verify: bool,
        folds: bool,
        calibration: Iterable[Any] | None,
    ) -> None:
        """Look, cut, prove, fold, and look again."""
        model, example = self._model, self._cut.graph.example_inputs
        tensors = named_tensors(model)
        data = None
        if calibration is not None:
            data = Calibration(calibration, example, next(iter(tensors.values())).device)
        folds = folds and not on_meta(tensors)
        if not folds or not (data or has_constants(model, self._cut)):
            self._prove(optimizers, verify=verify)
            return
        leaving = Contributions(model, self._cut, means=data is not None)
        batches = [example] if data is None else data.batches("measuring means")
        readings, skipped = observe(model, self._cut, batches, leaving.looks)
        weights = {r.module: _weight(r).detach().clone() for r in readings}
        expected = network_outputs(model, example)
        self._prove(optimizers, verify=verify)
        before = _difference(expected, network_outputs(model, example))
        self._folded = fold(
            readings,
            constants_only=data is None,
            keep={r.module: self._outputs(r) for r in readings},
            weights=weights,
            undo=self._undo,
            skipped=skipped,
        )
        settle(model, leaving.values(), self._undo)
        if data is not None:
            restore = reestimate(model, data.batches("estimating BatchNorm statistics"))
            self._undo.steps.append(restore)
        after = _difference(expected, network_outputs(model, example))
        self._change = Change(before, after)
        _join_groups(self._folded.biases, optimizers, self._undo)

    @property
    def added(self) -> tuple[str, ...]:
        """The layers that were given a bias."""
        return self._folded.added

    def ensure_bias(self, name: str) -> None:
        """Give a layer a bias of zero if it has none."""
        module = self._model.get_submodule(name)
        if getattr(module, "bias", None) is None:
            self._undo.steps.append(add_bias(module))

    def restore(self) -> None:
        """Take everything back, last change first."""
        self._undo()

    def outcome(self) -> Outcome:
        """What happened, for the user."""
        assert self._proof is not None  # noqa: S101 -- run has been called
        cut = self._cut
        before, after = cut.graph.cost(), cut.cost
        left = f", {len(cut.plan.remnants)} layers left" if cut.plan.remnants else ""
        folded = f"; {self._folded}" if self._folded.inputs else ""
        message = (
            f"{self._proof.message}, MACs {before.macs:,} -> {after.macs:,}, parameters "
            f"{before.params:,} -> {after.params:,}{left}{folded}."
        )
        return Outcome(
            self._proof.drift, before, after, cut.plan, message,
            narrowed(cut), self._folded, self._change,
        )  # fmt: skip

    def _prove(self, optimizers: Sequence[Optimizer], *, verify: bool) -> None:
        self._proof = prove(self._model, self._cut, optimizers, verify=verify)
        self._undo.steps.append(self._proof.undo)

    def _outputs(self, reading: Reading) -> IntArray:
        """Which of a layer's outputs are left, in the order of the cut network."""
        ids = self._cut.graph.sites.get((f"{reading.path}.weight", 0))
        if ids is None:
            return np.arange(_weight(reading).shape[0])
        return self._cut.survivors(ids)


def _weight(reading: Reading) -> Tensor:
    weight: Any = reading.module.weight
    return weight


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    pairs = zip(expected, found, strict=True)
    return max((drift_between(want, have) for want, have in pairs), default=0.0)


def _join_groups(
    biases: Sequence[tuple[Tensor, Tensor]], optimizers: Sequence[Optimizer], undo: Undo
) -> None:
    """Let a bias that was added be trained like the weight beside it."""
    for weight, bias in biases:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if any(parameter is weight for parameter in group["params"]):
                    undo.steps.append(partial(group.__setitem__, "params", [*group["params"]]))
                    group["params"].append(bias)
