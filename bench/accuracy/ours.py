"""gammaslim: what its penalties make of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

import gammaslim as gs
from bench.accuracy.training import EXAMPLE, Training

PENALTIES: Mapping[str, type[gs.L1 | gs.GroupLasso | gs.Proximal]] = MappingProxyType(
    {"l1": gs.L1, "group_lasso": gs.GroupLasso, "proximal": gs.Proximal}
)
MOST = 0.9
"""No group loses more than this share of its width: global ranking can empty a layer."""


class Sparse:
    """Training with a penalty of the suggested strength, then a cut by score."""

    def __init__(self, training: Training, method: str, share: float) -> None:
        """Before the training."""
        self.training = training
        self.share = share
        self.graph = gs.trace(training.model, EXAMPLE)
        setup = training.setup
        kind = PENALTIES[method]
        self.strength = gs.suggest_strength(
            training.model, self.graph, training.optimizer, total_steps=setup.sparse_steps,
            lr=setup.rates()[: setup.sparse_steps].tolist(), penalty=kind, margin=setup.margin,
        )  # fmt: skip
        self.penalty = kind(self.strength)

    def train(self, kept: Path) -> None:
        """Up to the cut; the same for every share, so that what is in ``kept`` will do."""
        self.training.once(kept, self._train)

    def _train(self) -> None:
        training = self.training
        with gs.attach(training.model, self.graph, training.optimizer, self.penalty):
            training.until(training.setup.sparse_steps)

    def cut(self) -> bool:
        """Cut; whether every scale and shift that went was zero."""
        model, graph = self.training.model, self.graph
        scores = gs.scores(model, graph)
        plan = gs.select(graph, scores, keep_macs=self.share, max_remove=MOST)
        return _cut(self.training, graph, plan)


class Budgeted:
    """Training with a budget: one schedule, with the cut where the budget says."""

    strength = None

    def __init__(self, training: Training, share: float) -> None:
        """Before the training."""
        self.training = training
        self.graph = gs.trace(training.model, EXAMPLE)
        self.budget = gs.Budget(keep_macs=share, steps=training.setup.steps)
        self.plan: gs.Plan | None = None

    def train(self, kept: Path) -> None:  # noqa: ARG002 -- depends on the share
        """Up to the cut."""
        training = self.training
        with gs.attach(training.model, self.graph, training.optimizer, self.budget) as handle:
            training.until(self.budget.zero_at)
            self.plan = handle.plan()

    def cut(self) -> bool:
        """Cut; whether every scale and shift that went was zero."""
        assert self.plan is not None
        return _cut(self.training, self.graph, self.plan)


def _cut(training: Training, graph: gs.ChannelGraph, plan: gs.Plan) -> bool:
    silent = all_zero(training, graph, plan)
    gs.prune(training.model, graph, plan, optimizer=training.optimizer)
    training.compact()
    return silent


def all_zero(training: Training, graph: gs.ChannelGraph, plan: gs.Plan) -> bool:
    """Whether every scale and every shift that ``plan`` removes is exactly zero."""
    tensors = dict(training.model.named_parameters())
    names = [name for scale in graph.scales for name in (scale, graph.shifts.get(scale))]
    return not any(bool(_removed(tensors[n], plan, n).any()) for n in names if n is not None)


def _removed(tensor: Tensor, plan: gs.Plan, name: str) -> Tensor:
    goes = torch.ones(len(tensor), dtype=torch.bool)
    kept = plan.kept.get((name, 0))
    goes[slice(None) if kept is None else torch.from_numpy(kept)] = False
    return tensor.detach()[goes]
