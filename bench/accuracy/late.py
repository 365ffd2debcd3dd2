"""gammaslim's budget as its README says: train to the end, and cut what is zero then."""

from __future__ import annotations

from pathlib import Path

import gammaslim as gs
from bench.accuracy.ours import all_zero
from bench.accuracy.training import EXAMPLE, Training


class LateBudget:
    """Training with a budget at full width; the cut comes after it and changes nothing."""

    strength = None

    def __init__(self, training: Training, share: float) -> None:
        """Before the training."""
        self.training = training
        self.graph = gs.trace(training.model, EXAMPLE)
        self.budget = gs.Budget(keep_macs=share, steps=training.setup.steps)
        self.plan: gs.Plan | None = None

    def train(self, kept: Path) -> None:  # noqa: ARG002 -- depends on the share
        """All of it."""
        training = self.training
        with gs.attach(training.model, self.graph, training.optimizer, self.budget) as handle:
            training.until(training.setup.steps)
            self.plan = handle.plan()

    def cut(self) -> bool:
        """Cut; whether every scale and shift that went was zero."""
        assert self.plan is not None
        silent = all_zero(self.training, self.graph, self.plan)
        gs.prune(self.training.model, self.graph, self.plan, optimizer=self.training.optimizer)
        self.training.compact()
        return silent
