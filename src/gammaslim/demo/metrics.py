"""What the demo measured: a record per network, its JSON file, and its table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from gammaslim.channels.tables import short_count


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
    rows = [_cells(line) for line in measured.values()]
    for heading in rows[0] if rows else ():
        table.add_row(heading, *(row[heading] for row in rows))
    return table


def _cells(line: Measured) -> dict[str, str]:
    latency = line.latency_ms
    return {
        "dense accuracy": f"{line.accuracy.dense:.1%}",
        "after the cut": f"{line.accuracy.after_cut:.1%}",
        "fine-tuned": f"{line.accuracy.finetuned:.1%}",
        "MACs per image": _change(line.macs),
        "parameters": _change(line.params),
        "latency, ms": f"{latency.before:.1f} → {latency.after:.1f}",
        "drift": f"{line.drift:.1e}",
        "same predictions": "all" if line.same_predictions else "not all",
    }


def _change(change: Change) -> str:
    left = change.after / change.before - 1
    return f"{short_count(int(change.before))} → {short_count(int(change.after))} ({left:+.0%})"
