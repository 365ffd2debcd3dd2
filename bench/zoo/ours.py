"""What gammaslim makes of one network: trace, cut twice, check, train."""

from __future__ import annotations

import copy
import gc
import re
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gammaslim as gs
from bench import oracle
from bench.oracle import Pair, judged, settle
from bench.zoo.toys import UNet

RATIOS = (0.3, 0.6)
REPETITIONS = 3
PATIENCE = 20.0
"""Seconds of tracing after which it is not repeated."""
ENOUGH = 0.95
"""Coverage that needs no explanation."""
REASONS = 5

Record = dict[str, Any]


def best_of(calls: Iterable[Callable[[], object]], first: float | None = None) -> float:
    """Seconds of the fastest call; ``first`` is what one of them took already.

    What it takes to make a call is not counted, and no more are made once patience has run out.
    """
    times = [] if first is None else [first]
    for call in calls:
        if sum(times) > PATIENCE:
            break
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def status(field: str) -> float:
    """One line of what the kernel knows of this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak_above(function: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result, and by how many MB it raised the resident memory of the process at most.

    Linux can forget the highest mark so far; elsewhere only a new record is seen.
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = status("VmRSS")
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        result = function()
        return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit - before
    result = function()
    return result, max(status("VmHWM") - before, 0.0)


def fake_forward(model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """One plain pass on fake tensors, without anything of ours; making them is not part of it."""
    mode = FakeTensorMode()
    faked = copy.deepcopy(model).eval()
    state = {name: mode.from_tensor(t) for name, t in oracle.named_tensors(faked).items()}
    image = mode.from_tensor(inputs)

    def run() -> object:
        with mode, torch.no_grad():
            return torch.func.functional_call(faked, state, (image,))

    return run


def warm_up() -> None:
    """Import what the first trace in a process imports, so that it is not measured."""
    gs.trace(UNet((4, 4)), torch.randn(2, 3, 16, 16))


def traced(model: nn.Module, inputs: Tensor) -> tuple[gs.ChannelGraph, Record]:
    """The graph, and what it took to get it."""
    warm_up()
    start = time.perf_counter()
    graph, peak = peak_above(lambda: gs.trace(model, inputs))
    first = time.perf_counter() - start
    trace = best_of([partial(gs.trace, model, inputs)] * (REPETITIONS - 1), first)
    record = {"first_trace_s": first, "trace_s": trace, "peak_mb": peak}
    try:
        record["fake_forward_s"] = best_of([fake_forward(model, inputs)] * REPETITIONS)
    except Exception as error:  # noqa: BLE001 -- some networks cannot run on fake tensors
        record["fake_forward_error"] = said(error)
    return graph, record


def said(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


@dataclass(frozen=True)
class Reason:
    """Why channels are kept: the text, where, and how many elements of scales that costs."""

    text: str
    scales: int


def reasons(graph: gs.ChannelGraph) -> list[Reason]:
    """Why scales are frozen, the most expensive first; together they are what coverage lacks.

    One channel may hold many elements of one scale, so elements are counted, not channels.
    """
    why = np.full(graph.num_channels, "", dtype=object)
    for group in graph.groups:
        why[group.channels] = group.reason
    cost: Counter[str] = Counter()
    for name in graph.scales:
        ids = graph.sites[(name, 0)]
        frozen = ids[(ids < 0) | ~graph.prunable[ids]]
        cost.update("no channel of its own" if one < 0 else why[one] for one in frozen)
    # Several places may say the same; the one that keeps most channels stands for them.
    places = {one.reason: str(one) for one in sorted(graph.frozen, key=lambda one: one.channels)}
    return [Reason(places.get(text, text), count) for text, count in cost.most_common(REASONS)]


def reachable_plan(graph: gs.ChannelGraph, ratio: float, seed: int) -> tuple[gs.Plan, float]:
    """The plan that removes ``ratio`` of the channels at random, or as many as there can be."""
    scores = oracle.random_scores(graph, seed)
    try:
        return gs.select(graph, scores, remove_channels=ratio), ratio
    except gs.TargetError as error:
        closest = float(re.findall(r"allow is (\d\.\d+)", str(error))[0])
        return gs.select(graph, scores, remove_channels=closest), closest


def cut_and_check(
    model: nn.Module, graph: gs.ChannelGraph, inputs: tuple[Tensor, Tensor], ratio: float
) -> Record:
    """One cut of a copy: its own verdict, the law from outside, the controls, a training step."""
    cut = copy.deepcopy(model)
    try:
        plan, removed = reachable_plan(graph, ratio, seed=int(100 * ratio))
        start = time.perf_counter()
        outcome = gs.prune(cut, graph, plan)
    except gs.GammaslimError as error:
        return {"asked": ratio, "refused": said(error)}
    record: Record = {"asked": ratio, "removed": removed, "drift": outcome.drift}
    record["prune_s"] = time.perf_counter() - start
    record["macs_left"] = outcome.after.macs / max(outcome.before.macs, 1)
    pair, finding = judged(Pair(oracle.masked_copy(model, plan), cut, plan, inputs[1]))
    record["law"] = asdict(finding) | {"holds": finding.holds}
    record["controls"] = [asdict(one) for one in pair.controls()]
    record["training_error"] = training_error(cut, inputs[0])
    return record


def training_error(cut: nn.Module, inputs: Tensor) -> str:
    """What goes wrong in one forward and backward in training mode; empty when nothing does."""
    try:
        oracle.check_training(cut, inputs)
    except Exception as error:  # noqa: BLE001 -- whatever the network raises is the result
        return said(error)
    return ""


def examine(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Record:
    """Everything about one network; ``inputs`` are those of the trace and others to check on."""
    settle(model, inputs[0], seed=0)
    record: Record = {"params": sum(parameter.numel() for parameter in model.parameters())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say stands in the graph's notes
        try:
            graph, measured = traced(model, inputs[0])
        except gs.GammaslimError as error:
            return {**record, "refused": said(error)}
    record |= measured | {"coverage": graph.coverage, "notes": list(graph.notes)}
    if graph.coverage < ENOUGH:
        record["reasons"] = [asdict(reason) for reason in reasons(graph)]
    record["cuts"] = [cut_and_check(model, graph, inputs, ratio) for ratio in RATIOS]
    return record
