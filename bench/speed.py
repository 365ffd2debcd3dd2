"""How long gammaslim and Torch-Pruning take, measured alternately in one process.

Two questions: what it takes to get from a network to a narrower one, and what a penalty adds to
one training step.  Run as ``python -m bench.speed [--out FILE] [--write-readme]``.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

import gammaslim as gs
from bench.environment import declare_box_operators

REMOVE = 0.3
STEPS = 5
NETS = ("resnet50", "efficientnet_b4", "densenet121", "mobilenet_v3_large")
README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- bench:speed:start -->", "<!-- bench:speed:end -->"

Arm = Callable[[], float]
"""Sets itself up, then returns the seconds that the measured part took."""


@dataclass(frozen=True)
class Row:
    """One comparison: medians in seconds, or why there is none."""

    net: str
    task: str
    ours: float | str
    theirs: float | str

    @property
    def ratio(self) -> float | None:
        """How many times faster gammaslim is."""
        if isinstance(self.ours, str) or isinstance(self.theirs, str):
            return None
        return self.theirs / self.ours


class Idle(Optimizer):
    """An optimizer that does nothing, so that a step costs what its hooks cost."""

    def __init__(self, parameters: Any) -> None:
        """Take the parameters."""
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        """Do nothing."""


def peer() -> Any:
    """Torch-Pruning, imported late: its import prints and warns."""
    import torch_pruning

    return torch_pruning


def build(name: str) -> nn.Module:
    """A torchvision network with distinct random scales."""
    from torchvision import models

    torch.manual_seed(0)
    model = getattr(models, name)(weights=None)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.weight.uniform_(0.1, 1.0)
    return model


def image(batch: int = 1, size: int = 224) -> torch.Tensor:
    """Noise in the shape of images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def classifier(model: nn.Module) -> nn.Module:
    """The last linear layer, which Torch-Pruning has to be told to leave alone."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def scale_pruner(model: nn.Module, *, group_lasso: bool = False) -> Any:
    """Torch-Pruning's Network Slimming at the same ratio."""
    tp = peer()
    return tp.pruner.BNScalePruner(
        model, image(), importance=tp.importance.BNScaleImportance(), group_lasso=group_lasso,
        global_pruning=True, pruning_ratio=REMOVE, ignored_layers=[classifier(model)],
    )  # fmt: skip


def lasso_pruner(model: nn.Module) -> Any:
    """The same with its group lasso on scales."""
    return scale_pruner(model, group_lasso=True)


def norm_pruner(model: nn.Module) -> Any:
    """Torch-Pruning's group lasso over all weights."""
    tp = peer()
    return tp.pruner.GroupNormPruner(
        model, image(), importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True, pruning_ratio=REMOVE, ignored_layers=[classifier(model)],
    )  # fmt: skip


def our_cut(original: nn.Module, *, verify: bool) -> float:
    """Seconds for trace, scores, select and prune."""
    model = copy.deepcopy(original).eval()
    start = time.perf_counter()
    graph = gs.trace(model, image())
    plan = gs.select(graph, gs.scores(model, graph), remove_channels=REMOVE)
    gs.prune(model, graph, plan, verify=verify)
    return time.perf_counter() - start


def their_cut(original: nn.Module) -> float:
    """Seconds for the construction of the pruner and one step."""
    model = copy.deepcopy(original).eval()
    start = time.perf_counter()
    scale_pruner(model).step()
    return time.perf_counter() - start


def with_gradients(original: nn.Module) -> nn.Module:
    """A copy that has gone through one backward pass."""
    model = copy.deepcopy(original).train()
    model(image(2, 96)).square().mean().backward()
    return model


def per_call(function: Callable[[], object]) -> float:
    """Median seconds of a few calls in a row; a call of over a second is measured only once."""
    times: list[float] = []
    while len(times) <= STEPS and sum(times) < 1:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def our_penalty(original: nn.Module, penalty: gs.L1 | gs.GroupLasso) -> Arm:
    """Seconds that the penalty adds to one step of an optimizer."""
    model = with_gradients(original)
    optimizer = Idle(model.parameters())
    gs.attach(model, gs.trace(model, image()), optimizer, penalty)
    return lambda: per_call(optimizer.step)


def their_penalty(original: nn.Module, make: Callable[[nn.Module], Any]) -> Arm:
    """Seconds of one ``regularize`` call."""
    model = with_gradients(original)
    pruner = make(model)
    pruner.update_regularizer()
    return lambda: per_call(lambda: pruner.regularize(model))


def late(prepare: Callable[[], Arm]) -> Arm:
    """An arm whose preparation is done once, at its first call, so that it may fail like it."""
    ready: list[Arm] = []

    def run() -> float:
        """Prepare if need be, then measure."""
        if not ready:
            ready.append(prepare())
        return ready[0]()

    return run


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError when the body takes longer."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        """End the body."""
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def measure(arms: Mapping[str, Arm], repetitions: int, limit: int) -> dict[str, float | str]:
    """Median seconds per arm, the arms taking turns; an arm that fails is out at once."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    failed: dict[str, str] = {}
    for _ in range(repetitions + 1):
        for name, arm in arms.items():
            if name in failed:
                continue
            try:
                with limited(limit), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    times[name].append(arm())
            except TimeoutError:
                failed[name] = f"over {limit} s"
            except Exception as error:  # noqa: BLE001 -- whatever a library raises is the result
                failed[name] = f"fails: {type(error).__name__}"
                print(f"  {name}: {error!r}"[:300], file=sys.stderr)
    return {name: failed.get(name) or statistics.median(times[name][1:]) for name in arms}


def rows_of(net: str, repetitions: int, limit: int) -> list[Row]:
    """All comparisons on one network."""
    model = build(net)
    cut = measure({
        "ours": lambda: our_cut(model, verify=False),
        "ours verified": lambda: our_cut(model, verify=True),
        "theirs": lambda: their_cut(model),
    }, repetitions, limit)  # fmt: skip
    step = measure({
        "L1": late(lambda: our_penalty(model, gs.L1(1e-4))),
        "their L1": late(lambda: their_penalty(model, scale_pruner)),
        "lasso": late(lambda: our_penalty(model, gs.GroupLasso(1e-4))),
        "their lasso": late(lambda: their_penalty(model, lasso_pruner)),
        "their weight lasso": late(lambda: their_penalty(model, norm_pruner)),
    }, repetitions, limit)  # fmt: skip
    return [
        Row(net, "cut, not verified", cut["ours"], cut["theirs"]),
        Row(net, "cut, verified (peer has no check)", cut["ours verified"], cut["theirs"]),
        Row(net, "L1, per step", step["L1"], step["their L1"]),
        Row(net, "group lasso on scales, per step", step["lasso"], step["their lasso"]),
        Row(net, "group lasso, peer on all weights", step["lasso"], step["their weight lasso"]),
    ]


def duration(value: float | str) -> str:
    """Seconds in a readable unit; text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.2f} ms"


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """One table row as text."""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return row.net, row.task, duration(row.ours), duration(row.theirs), ratio


def heading() -> tuple[str, str, str, str, str]:
    """The column names."""
    peer_name = f"Torch-Pruning {version('torch-pruning')}"
    return "network", "task", "gammaslim", peer_name, "times faster"


def conditions(repetitions: int) -> dict[str, str | int]:
    """Where and how this was measured."""
    return {
        "torch": torch.__version__,
        "torch_pruning": version("torch-pruning"),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "repetitions": repetitions,
    }


def markdown(rows: list[Row], setting: Mapping[str, str | int]) -> str:
    """The table for the README, with the conditions under it."""
    lines = [heading(), ("---", "---", "---:", "---:", "---:"), *(cells(row) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{table}\n\nMedians of {setting['repetitions']} alternating repetitions in one process, "
        f"CPU ({setting['machine']}, {setting['threads']} threads), torch {setting['torch']}; "
        f"one 224 x 224 image, {REMOVE:.0%} of the channels. `python -m bench.speed` repeats it.\n"
    )


def write_readme(text: str, path: Path = README) -> None:
    """Replace what stands between the two markers."""
    page = path.read_text(encoding="utf-8")
    if START not in page or END not in page:
        raise SystemExit(f"{path.name} needs the lines {START} and {END}.")
    before, rest = page.split(START, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{START}\n{text}{END}{after}", encoding="utf-8")


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(*heading())
    for row in rows:
        table.add_row(*cells(row))
    Console().print(table)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--write-readme", action="store_true", help="rewrite the README's table")
    parser.add_argument("--nets", nargs="+", default=NETS, help="torchvision names")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=180, help="seconds one call may take")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, show, and write what was asked for."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    declare_box_operators()
    rows = [row for net in options.nets for row in rows_of(net, options.repetitions, options.limit)]
    setting = conditions(options.repetitions)
    show(rows)
    if options.out:
        record = {**setting, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.write_readme:
        write_readme(markdown(rows, setting))


if __name__ == "__main__":
    main()
