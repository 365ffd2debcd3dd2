"""What the demo measured: a record per network, its JSON file, and its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from gammaslim.channels import short_count


@dataclass(frozen=True)
class Accuracy:
    """Shares of held-out images classified correctly, 0 to 1.

    ``dense`` is the network trained with the penalty, just before the cut; ``after_cut`` the same
    moment after it, nothing retrained; ``finetuned`` after a short training without penalty.
    """

    dense: float
    after_cut: float
    finetuned: float


@dataclass(frozen=True)
class Change:
    """A quantity of the network before and after the cut."""

    before: float
    after: float


@dataclass(frozen=True)
class Measured:
    """One network's line of the demo; MACs are per image, latency is of the whole test set.

    ``same_predictions``: for every held-out image the class is the same before and after the cut.
    """

    accuracy: Accuracy
    macs: Change
    params: Change
    drift: float
    same_predictions: bool
    latency_ms: Change


def write_metrics(measured: Mapping[str, Measured], path: Path) -> None:
    """Write ``{network: {"accuracy": {"dense": ...}, ...}}`` as JSON, all of it or nothing."""
    record = {name: asdict(line) for name, line in measured.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def metrics_table(measured: Mapping[str, Measured]) -> Table:
    """One column per network, for the terminal."""
    table = Table(title="Before and after the cut", title_justify="left", header_style="bold")
    table.add_column("")
    for name in measured:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[Measured], str]] = {
        "dense accuracy": lambda one: f"{one.accuracy.dense:.1%}",
        "after the cut": lambda one: f"{one.accuracy.after_cut:.1%}",
        "fine-tuned": lambda one: f"{one.accuracy.finetuned:.1%}",
        "MACs per image": lambda one: _change(one.macs),
        "parameters": lambda one: _change(one.params),
        "latency, ms": lambda one: f"{one.latency_ms.before:.1f} → {one.latency_ms.after:.1f}",
        "drift": lambda one: f"{one.drift:.1e}",
        "same predictions": lambda one: "all" if one.same_predictions else "not all",
    }
    for heading, cell in rows.items() if measured else ():
        table.add_row(heading, *map(cell, measured.values()))
    return table


def _change(change: Change) -> str:
    left = change.after / change.before - 1
    return f"{short_count(int(change.before))} → {short_count(int(change.after))} ({left:+.0%})"
