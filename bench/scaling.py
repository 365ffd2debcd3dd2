"""How tracing grows, in time and memory: up to 1,000 layers and 1,000,000 channels, and real nets.

Every point is measured in a process of its own: medians of alternating traces and plain fake
forward passes of the same network, and the memory that a trace takes above the network.  Run as
``python -m bench.scaling``; it writes ``docs/scaling.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

import gammaslim as gs
from bench.environment import declare_box_operators

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
LAYERS = (10, 30, 100, 300, 1000)
CHANNELS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
WIDTH, DEPTH = 64, 100
REPETITIONS = 5
MOST_RATIO, MOST_MEGABYTES = 1.5, 200
NETS = {
    "timm:densenet121": (1, 3, 224, 224),
    "timm:nasnetalarge": (1, 3, 331, 331),
    "timm:tiny_vit_5m_224": (1, 3, 224, 224),
    "timm:levit_128s": (1, 3, 224, 224),
    "timm:volo_d1_224": (1, 3, 224, 224),
    "timm:xcit_nano_12_p16_224": (1, 3, 512, 512),
    "torchvision:efficientnet_b4": (1, 3, 512, 512),
    "torchvision:r3d_18": (1, 3, 16, 112, 112),
    "torchvision:fcn_resnet50": (1, 3, 512, 512),
}
"""Attention maps, a 3-D volume, 512-pixel pictures, and the deepest networks of the zoo."""


@dataclass(frozen=True)
class Point:
    """One network: seconds of a plain fake forward pass and of a trace, and a trace's memory."""

    name: str
    layers: int
    channels: int
    fake: float
    trace: float
    megabytes: float

    @property
    def ratio(self) -> float:
        """A trace in plain fake forward passes."""
        return self.trace / self.fake


def layer(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two layers and the sum with what came in."""

    def __init__(self, width: int) -> None:
        """A block of ``width`` channels on a stream of as many."""
        super().__init__()
        self.body = nn.Sequential(layer(width, width), layer(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return x + self.body(x)


def chain(layers: int, width: int) -> nn.Module:
    """A plain stack of layers."""
    return nn.Sequential(layer(3, width), *(layer(width, width) for _ in range(layers - 1)))


def residual(layers: int, width: int) -> nn.Module:
    """A stack of residual blocks of two layers each."""
    return nn.Sequential(layer(3, width), *(Residual(width) for _ in range((layers - 1) // 2)))


STACKS: dict[str, Callable[[int, int], nn.Module]] = {"chain": chain, "residual": residual}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """``chain:LAYERS:WIDTH``, without memory for its weights, or one of ``NETS``."""
    kind, *numbers = name.split(":")
    if kind in STACKS:
        with torch.device("meta"):
            return STACKS[kind](*map(int, numbers)), torch.zeros(1, 3, 8, 8)
    from gammaslim.cli.networks import load_network

    declare_box_operators()
    return load_network(name), torch.zeros(NETS[name])


def fake_forward(model: nn.Module, example: Tensor) -> None:
    """What PyTorch alone takes to run the network on fake tensors."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.allow_meta = True
    tensors = [*model.named_parameters(), *model.named_buffers()]
    state = {name: mode.from_tensor(tensor) for name, tensor in tensors}
    with mode, torch.no_grad():
        functional_call(model, state, (mode.from_tensor(example),))


def seconds(function: Callable[[nn.Module, Tensor], object], *arguments: object) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function(*arguments)  # type: ignore[arg-type]
    return time.perf_counter() - start


def resident() -> float:
    """Megabytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def watched() -> Iterator[list[float]]:
    """A list whose only entry ends as the most memory in use meanwhile, above that before."""
    most, before, done = [0.0], resident(), threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def measure(name: str) -> Point:
    """One point, after a small trace that loads what PyTorch loads once."""
    torch.set_num_threads(1)
    gs.trace(chain(2, 4), torch.zeros(1, 3, 8, 8))
    model, example = build(name)
    model.eval()
    with watched() as most:
        graph = gs.trace(model, example)
    fake_forward(model, example)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(REPETITIONS):
        times[0].append(seconds(fake_forward, model, example))
        times[1].append(seconds(gs.trace, model, example))
    fake, trace = map(statistics.median, times)
    return Point(name, len(graph.scales), graph.num_channels, fake, trace, most[0])


def elsewhere(name: str) -> Point:
    """The same in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.scaling", "--point", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def slope(sizes: Sequence[int], points: Sequence[Point]) -> float:
    """The exponent p of ``time = a · size^p``, fitted in logarithms over the larger half."""
    half = len(points) // 2
    times = [point.trace for point in points]
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


HEADINGS = ("network", "BatchNorms", "channels", "fake forward", "trace", "ratio", "memory")


def cells(point: Point) -> tuple[str, ...]:
    """One row of a table."""
    return (
        point.name,
        f"{point.layers:,}",
        f"{point.channels:,}",
        f"{point.fake:.3f} s",
        f"{point.trace:.3f} s",
        f"{point.ratio:.2f}",
        f"{point.megabytes:.0f} MB",
    )


def table(points: Sequence[Point]) -> str:
    """The points in Markdown."""
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *map(cells, points)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(layers: Sequence[Point], channels: Sequence[Point], nets: Sequence[Point]) -> str:
    """The whole of ``docs/scaling.md``."""
    fits = [
        f"time ~ {what}^{slope(sizes, points[index * len(sizes) :][: len(sizes)]):.2f} ({kind})"
        for what, sizes, points in (("layers", LAYERS, layers), ("channels", CHANNELS, channels))
        for index, kind in enumerate(STACKS)
    ]
    worst = max(point.ratio for point in nets)
    most = max(point.megabytes for point in nets)
    return f"""# What tracing costs

Written by `python -m bench.scaling`. "Fake forward" is one plain forward pass on PyTorch's fake
tensors, "ratio" a trace in such passes (a network whose code asks for training mode is traced in
both modes), "memory" the most that a first trace takes above the network. Medians of {REPETITIONS}
alternating repetitions in one process per row; {platform.machine()}, one thread, torch
{torch.__version__}.

## Real networks

Worst ratio {worst:.2f} (aim: {MOST_RATIO}), most memory {most:.0f} MB (aim: {MOST_MEGABYTES} MB).

{table(nets)}

## More layers, {WIDTH} channels each

{table(layers)}

## More channels in {DEPTH} layers, and in {LAYERS[-1]:,}

{table(channels)}

Fitted over the upper half of each range: {"; ".join(fits)}. An exponent of 1 is linear growth.
"""


def show(points: Sequence[Point]) -> None:
    """The points as a table on the terminal."""
    shown = Table(*HEADINGS)
    for point in points:
        shown.add_row(*cells(point))
    Console(emoji=False).print(shown)  # `chain:100:64` holds none


def main(argv: list[str] | None = None) -> None:
    """Measure everything and write the page, or one point and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", help="measure this one and print it as JSON")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    chosen = parser.parse_args(argv)
    if chosen.point:
        print(json.dumps(asdict(measure(chosen.point))))
        return
    nets = [elsewhere(name) for name in NETS]
    layers = [elsewhere(f"{kind}:{count}:{WIDTH}") for kind in STACKS for count in LAYERS]
    wide = [f"{kind}:{DEPTH}:{total // DEPTH}" for kind in STACKS for total in CHANNELS]
    channels = [elsewhere(name) for name in wide]
    deepest = [elsewhere(f"{kind}:{LAYERS[-1]}:{CHANNELS[-1] // LAYERS[-1]}") for kind in STACKS]
    show([*nets, *layers, *channels, *deepest])
    chosen.out.write_text(page(layers, [*channels, *deepest], nets), encoding="utf-8")


if __name__ == "__main__":
    main()
