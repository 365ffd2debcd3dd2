"""scikit-learn's handwritten digits: 1797 images of 8x8, split once and for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gammaslim.errors import MissingExtraError

TEST_SHARE = 0.25
_SPLIT_SEED = 0
"""The split is the same for every seed of the demo, so that their accuracies compare."""


@dataclass(frozen=True, eq=False)
class Digits:
    """Images ``[n, 1, 8, 8]`` of mean 0 and deviation 1 over the training set, labels ``[n]``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled training batches, each shifted by up to one pixel.

        A last batch that is not full is left out; the next epoch shuffles anew.
        """
        order = torch.randperm(len(self.train_labels), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield _shifted(self.train_images[chosen], generator), self.train_labels[chosen]

    def steps(self, size: int) -> int:
        """How many batches an epoch has."""
        return len(self.train_labels) // size


def load_digits() -> Digits:
    """The digits, a stratified quarter of them held out for testing.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split as split
    except ImportError as error:
        raise MissingExtraError(
            f"The demo trains on scikit-learn's digits, which cannot be imported ({error}). "
            "Install them: pip install 'gammaslim[demo]'."
        ) from error
    data: Any = load()
    labels = data.target
    parts: Any = split(
        data.images, labels, test_size=TEST_SHARE, stratify=labels, random_state=_SPLIT_SEED
    )
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    mean, deviation = train.mean(), train.std()
    return Digits(
        train_images=((train - mean) / deviation).float().unsqueeze(1),
        train_labels=train_labels.long(),
        test_images=((test - mean) / deviation).float().unsqueeze(1),
        test_labels=test_labels.long(),
    )


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by one common offset of -1, 0 or 1 pixel each way; edges are repeated."""
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded[..., down : down + height, right : right + width]
