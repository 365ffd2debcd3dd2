"""What a training costs when the network shrinks on the way, beside the same at full width.

Two trainings take turns, epoch by epoch, in one process: one at full width without a penalty, one
with a budget of half the MACs and :func:`gammaslim.shrink_every`.  Run as
``python -m bench.shrinking [--net vgg] [--epochs 12]``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

import gammaslim as gs
from bench.accuracy import glyphs, nets
from bench.accuracy.one import machine
from bench.pages import write_between

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cutting.md"

BATCH = 64
LOOKS = 20
"""How often per epoch dead channels are looked for."""


class Training:
    """A network on its way, and the seconds that its epochs have taken."""

    def __init__(
        self, net: str, data: glyphs.Glyphs, epochs: int, limits: Mapping[str, Any] | None
    ) -> None:
        """Begin; with a budget of these ``limits`` if they are given."""
        self.model = nets.build(net, seed=0).to(memory_format=torch.channels_last)
        self.data = data
        example = data.train_images[:BATCH].contiguous(memory_format=torch.channels_last)
        graph = gs.trace(self.model, example)
        self.full = graph.cost().macs
        groups = gs.param_groups(self.model, graph, weight_decay=5e-4)
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        steps = epochs * (len(data.train_labels) // BATCH)
        self.schedule = OneCycleLR(self.optimizer, 0.1, steps, pct_start=0.1, cycle_momentum=False)
        self.shrink: Callable[[], object] = lambda: None
        self.seconds: list[float] = []
        if limits is not None:
            budget = gs.Budget(steps=steps, **limits)
            handle = gs.attach(self.model, graph, self.optimizer, budget)
            every = max(len(data.train_labels) // BATCH // LOOKS, 1)
            self.shrink = gs.shrink_every(every, self.model, handle, self.optimizer)

    def epoch(self, seed: int) -> None:
        """One pass over the training images, timed."""
        order = torch.randperm(len(self.data.train_labels), generator=torch.manual_seed(seed))
        self.model.train()
        start = time.process_time()
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            images = self.data.train_images[rows].contiguous(memory_format=torch.channels_last)
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(images), self.data.train_labels[rows])
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.shrink()
        self.seconds.append(time.process_time() - start)

    @torch.no_grad()
    def accuracy(self) -> float:
        """On the test images."""
        self.model.eval()
        parts = zip(self.data.test_images.split(500), self.data.test_labels.split(500), strict=True)
        right = sum(int((self.model(x).argmax(1) == y).sum()) for x, y in parts)
        return right / len(self.data.test_labels)


def compare(net: str, epochs: int, limits: Mapping[str, Any]) -> tuple[Training, Training]:
    """Both trainings, taking turns."""
    data = glyphs.load()
    pair = (
        Training(net, data, epochs, None),
        Training(net, data, epochs, limits),
    )
    for turn in track(range(epochs), f"{net}, two trainings"):
        for each in pair if turn % 2 else reversed(pair):
            each.epoch(turn)
    return pair


def row(net: str, pair: tuple[Training, Training]) -> str:
    """One line of the table."""
    full, small = pair
    macs = gs.trace(small.model, small.data.train_images[:BATCH]).cost().macs / small.full
    taken = [sum(each.seconds) for each in pair]
    return (
        f"| {net} | {taken[0]:.0f} s | {taken[1]:.0f} s | {1 - taken[1] / taken[0]:.1%} "
        f"| {1 - small.seconds[-1] / full.seconds[-1]:.1%} | {macs:.1%} "
        f"| {full.accuracy():.1%} | {small.accuracy():.1%} |"
    )


HEAD = """\
| network | full width | shrinking | saved | last epoch | MACs left | accuracy, full | shrunk |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def text(rows: Sequence[str], options: argparse.Namespace) -> str:
    """The table, and what it was measured with."""
    on = machine()
    note = (
        f"Processor seconds of {options.epochs} epochs, one seed; "
        f"`Budget(keep_macs={options.keep_macs:g}, round_to={options.round_to}, "
        f"settle={0.7 * options.end:.2g}, end={options.end:g})`; {on['cpu']}, 1 thread, "
        f"torch {on['torch']}."
    )
    return "\n".join([HEAD, *rows, "", note, ""])


def main(argv: list[str] | None = None) -> None:
    """Train both and show."""
    parser = argparse.ArgumentParser(prog="python -m bench.shrinking", description=__doc__)
    parser.add_argument("--net", nargs="+", default=list(nets.NETWORKS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--keep-macs", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, default=16, help="odd widths are slow widths")
    parser.add_argument("--end", type=float, default=0.1, help="when the budget is met, 0 to 1")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    end = options.end
    limits = {
        "keep_macs": options.keep_macs, "round_to": options.round_to,
        "start": end / 10, "settle": 0.7 * end, "end": end,
    }  # fmt: skip
    rows = [row(net, compare(net, options.epochs, limits)) for net in options.net]
    write_between(PAGE, "bench:shrinking", text(rows, options))
    print(f"{PAGE} is written.")


if __name__ == "__main__":
    main()
