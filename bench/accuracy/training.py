"""The training that all methods share: one loop, one learning rate curve, one clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.accuracy.glyphs import Glyphs
from bench.accuracy.setup import Setup

EXAMPLE = torch.zeros(1, 1, 32, 32)
Hook = Callable[[], None]


class Training:
    """A network, its optimizer, and how many steps it has had.

    The pictures that a step sees follow from its number and the seed alone, so that every method
    sees the same ones and a training that is taken up again goes on as it would have.
    """

    def __init__(self, model: nn.Module, setup: Setup, glyphs: Glyphs, seed: int) -> None:
        """Before the first step."""
        self.model = model.to(memory_format=torch.channels_last)
        self.setup = setup
        self.glyphs = glyphs
        self.seed = seed
        self.step = 0
        self.wall = self.cpu = 0.0
        self._rates = setup.rates()
        self._order = torch.empty(0, dtype=torch.int64)
        self.optimizer = self.fresh_optimizer()

    def fresh_optimizer(self) -> torch.optim.Optimizer:
        """SGD on the network's present parameters; neither vectors nor biases decay."""
        weights = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": self.setup.decay}, {"params": vectors}]
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=self.setup.momentum)
        return self.optimizer

    def until(self, end: int, *, each_epoch: Hook | None = None, each: Hook | None = None) -> None:
        """Train up to step ``end``; ``each`` is called between ``backward`` and ``step``."""
        self.model.train()
        wall, cpu = time.perf_counter(), time.process_time()
        while self.step < end:
            if each_epoch is not None and self.step % self.setup.per_epoch == 0:
                each_epoch()
            self._one(each)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.model.eval()

    def _one(self, each: Hook | None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = float(self._rates[self.step])
        chosen = self._batch()
        self.optimizer.zero_grad()
        images = self.glyphs.train_images[chosen].contiguous(memory_format=torch.channels_last)
        cross_entropy(self.model(images), self.glyphs.train_labels[chosen]).backward()
        if each is not None:
            each()
        self.optimizer.step()
        self.step += 1

    def _batch(self) -> Tensor:
        epoch, place = divmod(self.step, self.setup.per_epoch)
        if place == 0 or not len(self._order):
            generator = torch.Generator().manual_seed(1000 * (self.seed + 1) + epoch)
            self._order = torch.randperm(len(self.glyphs.train_images), generator=generator)
        return self._order[place * self.setup.batch :][: self.setup.batch]

    def once(self, file: Path, train: Hook) -> None:
        """Train, or take what the same training left in ``file``, its times included."""
        if file.exists():
            self._restore(torch.load(file, weights_only=True))
            return
        train()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.save(self._state(), partial)
        partial.replace(file)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numbers": {"step": self.step, "wall": self.wall, "cpu": self.cpu},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        vars(self).update(state["numbers"])
        self._order = self._order[:0]
        self.model.eval()

    def compact(self) -> None:
        """Lay out anew what a cut has left, and what the optimizer holds of it."""
        self.model.to(memory_format=torch.channels_last)
        for state in self.optimizer.state.values():
            buffer = state.get("momentum_buffer")
            if buffer is not None and buffer.ndim == 4:
                state["momentum_buffer"] = buffer.contiguous(memory_format=torch.channels_last)
