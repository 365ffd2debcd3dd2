"""What is measured of a network: its answers, how far they moved, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.accuracy.glyphs import SIZE, Glyphs

CHUNK = 500
ROUNDS = {1: 60, 32: 12}
"""How often each network runs, by batch size."""


@torch.inference_mode()
def logits(model: nn.Module, glyphs: Glyphs) -> Tensor:
    """What the network says of every test picture, ``[n, classes]``."""
    model.eval()
    parts = glyphs.test_images.split(CHUNK)
    return torch.cat([model(p.contiguous(memory_format=torch.channels_last)) for p in parts])


def accuracy(said: Tensor, glyphs: Glyphs) -> float:
    """The share of test pictures that are read correctly, 0 to 1."""
    return float((said.argmax(1) == glyphs.test_labels).double().mean())


def drift(before: Tensor, after: Tensor) -> float:
    """``max |after - before| / max |before|`` over all logits of all test pictures."""
    return float((after - before).abs().max() / before.abs().max())


def same_predictions(before: Tensor, after: Tensor) -> float:
    """The share of test pictures of which both say the same, 0 to 1."""
    return float((before.argmax(1) == after.argmax(1)).double().mean())


def latencies(models: Sequence[nn.Module]) -> dict[str, list[float]]:
    """Median milliseconds of a forward pass of each network by batch size, taken in turns."""
    found: dict[str, list[float]] = {}
    for batch, rounds in ROUNDS.items():
        images = torch.zeros(batch, 1, SIZE, SIZE).to(memory_format=torch.channels_last)
        taken = [[_once(model, images) for model in models] for _ in range(rounds + 3)][3:]
        found[str(batch)] = [statistics.median(times) for times in zip(*taken, strict=True)]
    return found


@torch.inference_mode()
def _once(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return 1000 * (time.perf_counter() - start)
