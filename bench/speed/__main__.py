"""How long gammaslim and Torch-Pruning take, measured alternately in one process.

Three questions: what it takes to get from a network to a narrower one, what a penalty adds to one
training step beside the peer's, and what share of the step that is.  Run as
``python -m bench.speed [--out FILE] [--write-readme]``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from bench.environment import declare_box_operators
from bench.pages import write_between
from bench.speed.measuring import late, measure
from bench.speed.nets import build
from bench.speed.ours import MOMENTS, kernels, our_cut, our_penalty, training_pass
from bench.speed.peer import (
    lasso_pruner,
    norm_pruner,
    scale_pruner,
    their_cut,
    their_penalty,
)  # fmt: skip
from bench.speed.tables import Row, Step, markdown, show

NETS = ("resnet50", "efficientnet_b4", "densenet121", "mobilenet_v3_large")
README = Path(__file__).resolve().parent.parent.parent / "README.md"


def rows_of(net: str, repetitions: int, limit: int) -> list[Row]:
    """All comparisons on one network."""
    model = build(net)
    cut = measure({
        "ours": lambda: our_cut(model, verify=False),
        "ours verified": lambda: our_cut(model, verify=True),
        "theirs": lambda: their_cut(model),
    }, repetitions, limit)  # fmt: skip
    step = measure({
        "L1": late(lambda: our_penalty(model, "L1")),
        "their L1": late(lambda: their_penalty(model, scale_pruner)),
        "lasso": late(lambda: our_penalty(model, "GroupLasso")),
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


def steps_of(net: str, repetitions: int, limit: int, device: str) -> list[Step]:
    """Every penalty beside a training step of one network."""
    model = build(net)
    arms = {name: late(lambda name=name: our_penalty(model, name, device)) for name in MOMENTS}
    arms["theirs"] = late(lambda: their_penalty(model, lasso_pruner, device))
    taken = measure(arms, repetitions, limit)
    training = training_pass(model, device)
    shown = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return [
        Step(shown, name, taken[name], taken["theirs"], training, kernels(model, name))
        for name in MOMENTS
    ]


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


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--write-readme", action="store_true", help="rewrite the README's table")
    parser.add_argument("--nets", nargs="+", default=NETS, help="torchvision names")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=180, help="seconds one call may take")
    parser.add_argument("--steps-net", default="resnet50", help="whose training step is measured")
    return parser.parse_args(argv)


def record(
    rows: Sequence[Row], steps: Sequence[Step], setting: Mapping[str, str | int]
) -> dict[str, object]:
    """All numbers, for a file."""
    return {
        **setting,
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
        "steps": [{**asdict(step), "ratio": step.ratio, "share": step.share} for step in steps],
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, show, and write what was asked for."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    declare_box_operators()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [row for net in options.nets for row in rows_of(net, options.repetitions, options.limit)]
    steps = [
        step
        for device in devices
        for step in steps_of(options.steps_net, options.repetitions, options.limit, device)
    ]
    setting = {**conditions(options.repetitions), "steps_net": options.steps_net}
    show(rows, steps)
    for line in (line for step in steps for line in step.shortfalls):
        print(f"Not as asked: {line}.")
    if options.out:
        text = json.dumps(record(rows, steps, setting), indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.write_readme:
        write_between(README, "bench:speed", markdown(rows, steps, setting))


if __name__ == "__main__":
    main()
