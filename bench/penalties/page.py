"""The table of ``docs/penalties.md``, and whether what must be equal is."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.penalties.settings import (
    BATCH,
    EPOCHS,
    KEEP_MACS,
    PEAKS,
    PENALTIES,
    PRECISIONS,
    PROCESSES,
    STEPS,
    STRENGTHS,
    Setting,
)  # fmt: skip

Record = dict[str, Any]
Triple = tuple[Setting, list[Record]]
"""The runs that differ in their processes alone."""
SHOWN = ("zeros", "near", "accuracy")
EXACT = ("Proximal", "Budget")
"""What reaches exact zeros, which can be cut."""
COLUMNS = ("penalty", "precision", "exactly zero", "below 1e-3", "accuracy", "MACs left",
           "same predictions", "processes")  # fmt: skip


def triples(found: Mapping[str, Record]) -> list[Triple]:
    """Those of which every run is there, in the order of the table."""
    complete: list[Triple] = []
    for optimizer in PEAKS:
        for penalty in PENALTIES:
            for precision in PRECISIONS:
                settings = [Setting(penalty, optimizer, precision, one) for one in PROCESSES]
                if all(setting.key in found for setting in settings):
                    complete.append((settings[0], [found[s.key] for s in settings]))
    return complete


def numbers(record: Record) -> tuple[Any, ...]:
    """All that the table shows of a run."""
    return (*(record[name] for name in SHOWN), record["cut"]["macs"], record["cut"]["same"])


def complaints(found: Mapping[str, Record]) -> list[str]:
    """Everything that should not be, a line each."""
    lines: list[str] = []
    for setting, records in triples(found):
        if setting.precision == "fp32" and len({numbers(record) for record in records}) > 1:
            shown = "; ".join(str(numbers(record)) for record in records)
            lines.append(f"{setting.key}: 1 process, DDP and FSDP2 should be equal: {shown}")
        lines += [f"{setting.key}: {text}" for record in records
                  for text in wrongs(setting.penalty, record)]  # fmt: skip
    return lines


def wrongs(penalty: str, record: Record) -> list[str]:
    """What is wrong with one run."""
    found: list[str] = []
    cut = record["cut"]
    if not cut["same"]:
        found.append("the cut changes predictions")
    if penalty in EXACT and not record["zeros"]:
        found.append("no scale is exactly zero")
    if penalty == "Budget" and cut["macs"] > KEEP_MACS:
        found.append(f"{cut['macs']:.3f} of the MACs are left, above the budget")
    return found


def rows(triple: Triple) -> list[list[str]]:
    """One row where the three runs agree in all that is shown, else one for each."""
    setting, records = triple
    if len({numbers(record) for record in records}) == 1:
        bits = len({record["weights"] for record in records}) == 1
        return [row(setting, records[0], "equal to the bit" if bits else "equal")]
    return [row(setting, record, name) for name, record in zip(PROCESSES, records, strict=True)]


def row(setting: Setting, record: Record, processes: str) -> list[str]:
    """The cells."""
    cut, dash = record["cut"], "–"
    shown = setting.penalty in EXACT
    return [
        setting.penalty,
        "fp16, scaled" if setting.precision == "fp16" else setting.precision,
        *(f"{record[name]:.1%}" for name in SHOWN),
        f"{cut['macs']:.1%}" if shown else dash,
        ("yes" if cut["same"] else "no") if shown else dash,
        processes,
    ]


def table(chosen: Sequence[Triple]) -> str:
    """In Markdown."""
    rules = ["---", "---", *["---:"] * 4, "---", "---"]
    lines = [list(COLUMNS), rules, *(line for triple in chosen for line in rows(triple))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def agreement(chosen: Sequence[Triple]) -> str:
    """How far runs on other processes differ from those on one."""
    same = sum(len({record["weights"] for record in records}) == 1 for _, records in chosen)
    worst = {
        name: max((_spread(records, name) for _, records in chosen), default=0.0) for name in SHOWN
    }
    if same == len(chosen):
        tail = "in all of them"
    else:
        tail = (
            f"in {same}; in the others accuracy differs by up to {worst['accuracy']:.1%}, the "
            f"share of exact zeros by {worst['zeros']:.1%}, that below 1e-3 by {worst['near']:.1%}"
        )
    return (
        f"Of the {len(chosen)} rows, each run in 1 process, under DDP and under FSDP2, the trained "
        f"weights agree to the last bit {tail}."
    )


def _spread(records: Sequence[Record], name: str) -> float:
    values = [record[name] for record in records]
    return max(values) - min(values)


def strengths(optimizer: str) -> str:
    """What λ was."""
    listed = ", ".join(f"{name} {value:g}" for name, value in STRENGTHS[optimizer].items())
    return f"{optimizer}: peak learning rate {PEAKS[optimizer]:g}, λ: {listed}."


def conditions() -> str:
    """Where and how this was measured."""
    return (
        f"{EPOCHS} epochs ({STEPS} steps) of batches of {BATCH}; one core each "
        f"({platform.machine()}, {os.cpu_count()} cores), Python {platform.python_version()}, "
        f"torch {torch.__version__}."
    )


def text(found: Mapping[str, Record]) -> str:
    """What stands between the markers."""
    chosen = triples(found)
    parts: list[str] = []
    for optimizer in PEAKS:
        mine = [triple for triple in chosen if triple[0].optimizer == optimizer]
        if mine:
            parts += [f"### {optimizer}", table(mine), strengths(optimizer)]
    return "\n\n".join([*parts, agreement(chosen), conditions()]) + "\n"
