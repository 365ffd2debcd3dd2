"""The demo itself: every step a user would take, through the public functions alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

import gammaslim as gs
from gammaslim.demo.data import Digits, load_digits
from gammaslim.demo.metrics import Accuracy, Change, Measured, metrics_table, write_metrics
from gammaslim.demo.nets import NETWORKS, build
from gammaslim.demo.training import (
    BATCH,
    Phase,
    accuracy,
    latencies,
    make_optimizer,
    predict,
    train,
)
from gammaslim.report.plots import scales_picture

FILES = {"vgg": "slim.safetensors", "resnet": "slim-resnet.safetensors"}

Scales = dict[str, list[float]]
Choice = Literal["budget", "lasso"]


_SPARSE = Phase(epochs=40, peak=0.1)
_TUNE = Phase(epochs=10, peak=0.005)


@dataclass(frozen=True)
class Recipe:
    """The demo's numbers.

    ``penalty`` is ``"budget"``, which brings what goes to exactly zero, so that the cut changes no
    prediction; or ``"lasso"``, the classic.  There the shrink budget ``strength · Σ lr / (1 -
    momentum)`` is about 20, far above the 1 at which scales start, and the falling learning rate
    lets those that the loss does not hold come to rest near zero.
    """

    penalty: Choice = "budget"
    sparse: Phase = _SPARSE
    tune: Phase = _TUNE
    strength: float = 5e-3
    keep_macs: float = 0.35
    min_channels: int = 4

    def penalty_on(self, digits: Digits) -> gs.Budget | gs.GroupLasso:
        """The penalty for a training on these digits."""
        if self.penalty == "lasso":
            return gs.GroupLasso(self.strength)
        steps = self.sparse.epochs * digits.steps(BATCH)
        return gs.Budget(keep_macs=self.keep_macs, steps=steps, min_channels=self.min_channels)


@dataclass(frozen=True)
class Setting:
    """What both networks share: data, numbers, seed, and whom to tell that an epoch is over."""

    digits: Digits
    recipe: Recipe
    seed: int
    tick: Callable[[str], object] = lambda _: None


@dataclass(frozen=True)
class Slimmed:
    """One network's measurements, and its scales at the end of each training, by tensor name."""

    measured: Measured
    before: Scales
    after: Scales


def run_demo(
    out: Path, *, seed: int = 0, console: Console | None = None, recipe: Recipe | None = None
) -> dict[str, Measured]:
    """Slim both networks and write ``metrics.json``, ``scales.png`` and a file per network.

    The same seed gives the same networks on the same machine; latencies differ.

    Args:
        out: the folder to write into; made if it is missing.
        seed: of initial weights and of the order of batches.
        console: where progress and the table go; the terminal if ``None``.
        recipe: epochs, learning rates and target; the default takes about a minute.

    Raises:
        GammaslimError: ``out`` cannot be written to, or a step of the pipeline refuses.
        MissingExtraError: scikit-learn or matplotlib is not installed.
    """
    console = console or Console()
    recipe = recipe or Recipe()
    make_folder(out)
    digits = load_digits()
    slimmed: dict[str, Slimmed] = {}
    epochs = len(NETWORKS) * (recipe.sparse.epochs + recipe.tune.epochs)
    with _one_thread(), _progress(console, epochs) as tick:
        for name in NETWORKS:
            setting = Setting(digits, recipe, seed, tick)
            slimmed[name] = slim_network(name, setting, out / FILES[name])
    measured = {name: result.measured for name, result in slimmed.items()}
    scales_picture(
        {f"{name} {key}": v for name, s in slimmed.items() for key, v in s.before.items()},
        {f"{name} {key}": v for name, s in slimmed.items() for key, v in s.after.items()},
        out / "scales.png",
    )
    write_metrics(measured, out / "metrics.json")
    console.print(metrics_table(measured))
    console.print(f"Written to {out}: {', '.join([*FILES.values(), 'scales.png', 'metrics.json'])}")
    return measured


def slim_network(name: str, setting: Setting, file: Path) -> Slimmed:
    """Train with the penalty, cut, fine-tune, save and load one of :data:`NETWORKS`.

    Raises:
        VerificationError: the cut changed what the network computes, or ``file`` does.
    """
    digits, recipe, seed = setting.digits, setting.recipe, setting.seed
    model = build(name, seed)
    optimizer = make_optimizer(model)
    graph = gs.trace(model, digits.test_images[:1])

    handle = gs.attach(model, graph, optimizer, recipe.penalty_on(digits))
    say = f"{name}: training with the penalty"
    train(model, optimizer, digits, recipe.sparse, seed=seed, tick=lambda: setting.tick(say))
    dense, before = copy.deepcopy(model), _scales(model, graph)

    plan = _plan(model, graph, handle, recipe)
    handle.detach()
    outcome = gs.prune(model, graph, plan, optimizer=optimizer)
    after_cut = accuracy(model, digits)
    unchanged = _predictions(dense, digits).equal(_predictions(model, digits))

    say = f"{name}: fine-tuning"
    train(model, optimizer, digits, recipe.tune, seed=seed + 1, tick=lambda: setting.tick(say))
    gs.save(model, file)
    _check_file(file, model, build(name, seed + 1), digits)

    slow, fast = latencies((dense, model), digits.test_images)
    measured = Measured(
        Accuracy(accuracy(dense, digits), after_cut, accuracy(model, digits)),
        macs=Change(outcome.before.macs, outcome.after.macs),
        params=Change(outcome.before.params, outcome.after.params),
        drift=float(outcome.drift),
        same_predictions=unchanged,
        latency_ms=Change(slow, fast),
    )
    return Slimmed(measured, before, _scales(model, graph))


def _plan(
    model: nn.Module, graph: gs.ChannelGraph, handle: gs.Attachment, recipe: Recipe
) -> gs.Plan:
    """What the budget has brought to zero, or else what has the smallest scales."""
    if recipe.penalty == "budget":
        return handle.plan()
    scores = gs.scores(model, graph)
    return gs.select(graph, scores, keep_macs=recipe.keep_macs, min_channels=recipe.min_channels)


def make_folder(out: Path) -> None:
    """Make sure that ``out`` is a folder that can be written to, before any training.

    Raises:
        GammaslimError: it is a file, cannot be made, or is read-only.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = "there is a file of that name" if out.is_file() else str(error)
        raise gs.GammaslimError(
            f"The demo was asked to write into the folder {str(out)!r}, but {found}. Name "
            "another folder with --out."
        ) from error
    if not os.access(out, os.W_OK):
        raise gs.GammaslimError(
            f"The demo was asked to write into the folder {str(out)!r}, which is read-only. Name "
            "another folder with --out."
        )


def _predictions(model: nn.Module, digits: Digits) -> torch.Tensor:
    return predict(model, digits.test_images).argmax(dim=1)


def _scales(model: nn.Module, graph: gs.ChannelGraph) -> Scales:
    return {
        name.removesuffix(".weight").removeprefix("features."): model.get_parameter(name)
        .detach()
        .tolist()
        for name in graph.scales
    }


def _check_file(file: Path, model: nn.Module, fresh: nn.Module, digits: Digits) -> None:
    """The promise of save and load: another network, cut and filled from the file, is the same."""
    gs.load(fresh, file)
    expected, found = (predict(net, digits.test_images) for net in (model, fresh))
    if not torch.equal(expected.argmax(dim=1), found.argmax(dim=1)):
        raise gs.VerificationError(
            f"A fresh network was loaded from {str(file)!r} and should predict what the network "
            f"that was saved predicts; they differ by up to {(expected - found).abs().max():.1e}. "
            "This is a bug in gammaslim: please report it."
        )


@contextmanager
def _one_thread() -> Generator[None]:
    """Networks this small gain little from more threads, and lose a lot on a busy machine.

    It also makes the sums, and so the accuracies, independent of how many cores there are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(console: Console, epochs: int) -> Generator[Callable[[str], None]]:
    """A progress bar; yields the function to call, with what is going on, after each epoch."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=epochs)
        yield lambda text: progress.update(task, advance=1, description=text)
