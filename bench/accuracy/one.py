"""One run: train, cut, train on, and everything that is measured on the way."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import gammaslim as gs
from bench.accuracy import baselines, measures
from bench.accuracy.glyphs import CACHE, Glyphs
from bench.accuracy.grid import OURS, UNCUT, Entry
from bench.accuracy.late import LateBudget
from bench.accuracy.nets import build
from bench.accuracy.ours import Budgeted, Sparse
from bench.accuracy.results import Record, fingerprint
from bench.accuracy.setup import Setup
from bench.accuracy.training import EXAMPLE, Training


class Cutting(Protocol):
    """A method that trains, cuts once, and leaves the rest to the loop."""

    @property
    def strength(self) -> float | None:
        """λ, where there is one."""
        ...

    def train(self, kept: Path) -> None:
        """Up to the cut."""

    def cut(self) -> bool | None:
        """Cut; whether all that went was zero, ``None`` where nobody says so."""


def run(entry: Entry, setup: Setup, glyphs: Glyphs, done: Mapping[str, Record]) -> Record:
    """The record of one run; ``done`` holds those from before, by key.

    Raises:
        LookupError: the architecture that ``scratch`` is to train is not known yet.
    """
    model = _network(entry, done)
    training = Training(model, setup, glyphs, entry.seed)
    found = _whole(training) if entry.method in UNCUT else _cut(entry, training)
    graph = gs.trace(training.model, EXAMPLE)
    original = build(entry.net, seed=entry.seed).to(memory_format=torch.channels_last).eval()
    cost, full = graph.cost(), gs.trace(original, EXAMPLE).cost()
    return {
        "key": entry.key,
        **asdict(entry),
        "recipe": setup.recipe,
        "sources": fingerprint(entry.method),
        **found,
        "wall_s": round(training.wall, 2),
        "cpu_s": round(training.cpu, 2),
        "macs": cost.macs / full.macs,
        "params": cost.params / full.params,
        "widths": baselines.widths(graph),
        "latency_ms": measures.latencies([original, training.model]),
        "machine": machine(),
    }


def _network(entry: Entry, done: Mapping[str, Record]) -> nn.Module:
    if entry.method == "narrow":
        return baselines.narrow(entry.net, entry.share, entry.seed)
    if entry.method != "scratch":
        return build(entry.net, seed=entry.seed)
    wanted = Entry("budget", entry.net, entry.share, entry.seed).key
    if wanted not in done:
        raise LookupError(f"{entry.key} trains the architecture of {wanted}; run that first.")
    return baselines.scratch(entry.net, done[wanted]["widths"], entry.seed)


def _whole(training: Training) -> Record:
    """A training without a cut."""
    training.until(training.setup.steps)
    said = measures.logits(training.model, training.glyphs)
    return {"final": measures.accuracy(said, training.glyphs)}


def _cut(entry: Entry, training: Training) -> Record:
    """A training with a cut in it."""
    glyphs = training.glyphs
    method = cutting(entry, training)
    method.train(_kept(entry, training.setup))
    at, before = training.step, measures.logits(training.model, glyphs)
    zero = method.cut()
    after = measures.logits(training.model, glyphs)
    training.until(training.setup.steps)
    final = measures.logits(training.model, glyphs)
    return {
        "before": measures.accuracy(before, glyphs),
        "after_cut": measures.accuracy(after, glyphs),
        "final": measures.accuracy(final, glyphs),
        "cut_at": at / training.setup.steps,
        "zero": zero,
        "drift": measures.drift(before, after),
        "same": measures.same_predictions(before, after),
        "strength": method.strength,
    }


def cutting(entry: Entry, training: Training) -> Cutting:
    """The method of a run; Torch-Pruning is imported only where it runs."""
    if entry.method == "budget":
        return Budgeted(training, entry.share)
    if entry.method == "budget_late":
        return LateBudget(training, entry.share)
    if entry.method in OURS:
        return Sparse(training, entry.method, entry.share)
    from bench.accuracy.peer import Peer

    return Peer(training, entry.method, entry.share)


def _kept(entry: Entry, setup: Setup) -> Path:
    """Where the training before the cut is kept, which the shares have in common."""
    name = f"{entry.method}-{entry.net}-{entry.seed}-{setup.recipe}-{fingerprint(entry.method)}"
    return CACHE / f"{name}.pt"


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The processor's name, where the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
