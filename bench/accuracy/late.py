"""gammaslim's budget as its README says: train to the end, and cut what is zero then."""

from __future__ import annotations

from pathlib import Path

import gammaslim as gs
from bench.accuracy.ours import Budgeted


class LateBudget(Budgeted):
    """Training with a budget at full width; the cut comes after it and changes nothing."""

    def train(self, kept: Path) -> None:  # noqa: ARG002 -- depends on the share
        """All of it."""
        training = self.training
        with gs.attach(training.model, self.graph, training.optimizer, self.budget) as handle:
            training.until(training.setup.steps)
            self.plan = handle.plan()
