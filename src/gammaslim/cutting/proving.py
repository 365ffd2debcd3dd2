"""One network, cut and proven, or put back as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.arrays import owner
from gammaslim.channels import ChannelGraph, Cut
from gammaslim.cutting.constants import set_value, uniform_value
from gammaslim.cutting.stale import remember
from gammaslim.cutting.surgery import apply_plan, cuts_by_tensor, masked_state
from gammaslim.cutting.undoing import Undo
from gammaslim.cutting.verification import (
    Evidence,
    Noise,
    Verdict,
    compare,
    reference,
    rounding,
    training_failure,
)
from gammaslim.errors import TraceError, VerificationError
from gammaslim.network import describe, named_tensors, on_meta


@dataclass(frozen=True)
class Proof:
    """How a cut was proven: the drift (``nan`` if it was not), and a sentence; ``undo`` it."""

    drift: float
    message: str
    undo: Undo


def prove(
    model: nn.Module,
    cut: Cut,
    optimizers: Sequence[Optimizer] = (),
    *,
    verify: bool = True,
) -> Proof:
    """Make a cut that has been checked, and prove it.

    Raises:
        TraceError: the network itself fails on the example inputs.
        VerificationError: the law does not hold; the network has been restored.
    """
    named = cuts_by_tensor(cut.plan)
    shapes = {p: p.shape for name, p in model.named_parameters() if name in named}
    meta = on_meta(named_tensors(model))
    task = _Task(model, cut, optimizers)
    if meta or not verify:
        undo = task.apply({} if meta else task.constants())
        why = "weights are on the meta device" if meta else "verify=False"
        proof = Proof(float("nan"), f"Cut, not verified: {why}", undo)
    else:
        verdict, undo = _cut_and_judge(task)
        if not verdict.holds:
            raise VerificationError(
                f"The cut network does not compute what the masked one computes: {verdict.message}."
                f"{tied_there(cut, verdict.blamed)} The network has been restored. Keep that layer "
                "with ignore=, and please report it."
            )
        text = f"Cut and verified at {verdict.compared} outputs: drift {verdict.drift:.1e}"
        proof = Proof(verdict.drift, text, undo)
    remember(shapes)
    return proof


# Blamed is conv2, of whose weight [16, 8, 3, 3] five columns stay: 0 1 3 5 6.  Its rows are what it
# makes and its columns what it reads: if what it makes is wrong, the columns are to be doubted
# first.  Column 2 is the first that has gone, and bn1.weight[2] went with it; so the sentence says
# which operator has tied these two.
def tied_there(cut: Cut, module: str) -> str:
    """A sentence on what ties the first slice that a module loses to another module's."""
    graph = cut.graph
    known = graph.couplings.spans.keys()
    sites = [site for site in cut.sites if owner(site[0]) == module and site in known]
    if not sites:
        return ""
    site = max(sites, key=lambda site: site[1])
    gone = int(np.delete(np.arange(cut.sites[site].size), cut.sites[site].indices)[0])
    channel = graph.sites[site][gone]
    for other, ids in graph.sites.items():
        if owner(other[0]) != module and other in known and channel in ids:
            return f" There {graph.why((*site, gone), other).line}."
    return ""


@dataclass(frozen=True, eq=False)
class _Task:
    """What is to be cut, and how."""

    model: nn.Module
    cut: Cut
    optimizers: Sequence[Optimizer]

    @cached_property
    def masked(self) -> dict[str, Tensor]:
        """The tensors of the masked network that are not those of the network."""
        return masked_state(self.model, self.cut)

    @cached_property
    def expected(self) -> Evidence:
        """What the masked network gives."""
        try:
            return reference(self.model, self.cut, self.masked)
        except Exception as error:  # any failure of the user's own code
            example = describe(self.cut.graph.example_inputs)
            raise TraceError(
                f"The network fails on the example inputs {example} before any cut; its own error "
                f"is {type(error).__name__}: {error}. Trace it again with inputs that it accepts, "
                "or pass verify=False."
            ) from error

    def constants(self) -> dict[str, Tensor]:
        """What layers that leave give in the masked network, per channel that is left."""
        return {
            path: uniform_value(path, outputs, remnant.dim)
            for path, remnant in self.cut.plan.remnants.items()
            if remnant.speaks and (outputs := self.expected.of(path))  # none where nobody reads it
        }

    def apply(self, constants: Mapping[str, Tensor]) -> Undo:
        """Cut, and put constants in the places of layers that leave."""
        undo = apply_plan(self.model, self.cut.plan, self.optimizers)
        try:
            for path, value in constants.items():
                set_value(self.model, path, value, undo)
        except BaseException:
            undo()
            raise
        return undo


def _cut_and_judge(task: _Task) -> tuple[Verdict, Undo]:
    """Cut and compare; the cut stays only if the law holds.

    Where a fixed tolerance is exceeded, what rounding alone does to the masked network is measured,
    in float64 if possible, and the comparison is made once more.
    """
    model, graph, expected = task.model, task.cut.graph, task.expected
    constants = task.constants()
    noise: Noise | None = None
    while True:
        undo = task.apply(constants)
        try:
            verdict = _verdict(model, graph, expected, noise)
        except BaseException:
            undo()
            raise
        if verdict.holds:
            return verdict, undo
        undo()
        if noise or not np.isfinite(verdict.drift):
            return verdict, undo
        expected, noise = rounding(model, task.cut, task.masked)


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
