"""What all methods have in common: pictures, epochs, and the learning rate of every step."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Raised when results from before must not stand beside results from now."""


@dataclass(frozen=True)
class Setup:
    """What all methods have in common; all of it is part of a result's key.

    ``margin`` is that of :func:`gammaslim.suggest_strength`.  ``sparse_epochs`` of the ``epochs``
    come before the cut, where a method does not say itself when to cut.
    """

    train: int = 5000
    test: int = 4000
    epochs: int = 12
    sparse_epochs: int = 8
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    margin: float = 2.0

    @property
    def recipe(self) -> str:
        """The version and all numbers, as one word."""
        return "-".join(map(str, (VERSION, *astuple(self))))

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of one epoch; an incomplete last batch is left out."""
        return self.train // self.batch

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.per_epoch

    @property
    def sparse_steps(self) -> int:
        """Optimizer steps before the cut."""
        return self.sparse_epochs * self.per_epoch

    def rates(self) -> NDArray[np.float64]:
        """The learning rate of every step, ``[steps]``: up for a tenth, then a half cosine."""
        warm = max(self.steps // 10, 1)
        step = np.arange(self.steps)
        falling = 0.5 * (1 + np.cos(np.pi * (step - warm) / (self.steps - warm)))
        return self.rate * np.where(step < warm, (step + 1) / warm, falling)
