"""Torch-Pruning 1.6: sparse training as its README says, and cuts until the MACs are met."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch_pruning as tp

import gammaslim as gs
from bench.accuracy.nets import Classifier
from bench.accuracy.ours import MOST
from bench.accuracy.training import EXAMPLE, Training

STEPS = 100
"""Its example prunes in 400 steps, until the MACs are met; a hundredth of the channels will do."""


@dataclass(frozen=True)
class Kind:
    """A pruner, its importance, and its strength: ``None`` is the one that we suggest for L1."""

    pruner: Callable[..., Any]
    importance: Callable[[], Any]
    strength: float | None
    ranks_globally: bool = True
    regularizes: bool = True


def _largest_is_one() -> Any:
    return tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        # 1e-5 is the default of both constructors, and what its README runs the first one with.
        "tp_bn": Kind(tp.pruner.BNScalePruner, tp.importance.BNScaleImportance, 1e-5),
        "tp_bn_strong": Kind(tp.pruner.BNScalePruner, tp.importance.BNScaleImportance, None),
        "tp_group": Kind(tp.pruner.GroupNormPruner, _largest_is_one, 1e-5),
        # What its reproduction of the paper runs the second one with.
        "tp_group_strong": Kind(tp.pruner.GroupNormPruner, _largest_is_one, 5e-4),
        "tp_magnitude": Kind(
            tp.pruner.BasePruner,
            tp.importance.GroupMagnitudeImportance,
            0.0,
            ranks_globally=False,
            regularizes=False,
        ),
    }
)


class Peer:
    """Training with its regulariser, then its cut, then a fresh optimizer."""

    def __init__(self, training: Training, method: str, share: float) -> None:
        """Before the training."""
        self.training = training
        self.share = share
        self.kind = KINDS[method]
        self.strength = self.kind.strength
        setup = training.setup
        if self.strength is None:
            graph = gs.trace(training.model, EXAMPLE)
            self.strength = gs.suggest_strength(
                training.model, graph, training.optimizer, total_steps=setup.sparse_steps,
                lr=setup.rates()[: setup.sparse_steps].tolist(), margin=setup.margin,
            )  # fmt: skip
        self.pruner = self._made()

    def _made(self) -> Any:
        model = self.training.model
        assert isinstance(model, Classifier)
        extra = {"reg": self.strength} if self.kind.regularizes else {}
        return self.kind.pruner(
            model, EXAMPLE, importance=self.kind.importance(), pruning_ratio=1.0,
            global_pruning=self.kind.ranks_globally, max_pruning_ratio=MOST,
            iterative_steps=STEPS, ignored_layers=[model.head], **extra,
        )  # fmt: skip

    def train(self, kept: Path) -> None:
        """Up to the cut; the same for every share, so that what is in ``kept`` will do."""
        self.training.once(kept, self._train)

    def _train(self) -> None:
        end = self.training.setup.sparse_steps
        if not self.kind.regularizes:
            self.training.until(end)
            return
        self.training.until(
            end,
            each_epoch=self.pruner.update_regularizer,
            each=lambda: self.pruner.regularize(self.training.model),
        )

    def cut(self) -> bool | None:
        """Cut in its own steps until no more than the share of the MACs is left."""
        model = self.training.model.eval()
        full = gs.trace(model, EXAMPLE).cost().macs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while gs.trace(model, EXAMPLE).cost().macs > self.share * full:
                if self.pruner.current_step >= STEPS:
                    break
                self.pruner.step()
        self.training.fresh_optimizer()
        self.training.compact()
        return None
