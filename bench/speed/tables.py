"""What was measured, as rows, and the rows as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from bench.speed.ours import BATCH, RARE
from bench.speed.peer import REMOVE

ASKED_SHARE, ASKED_KERNELS, ASKED_TIMES, ASKED_SECONDS = 0.01, 12, 20, 100e-6
"""A penalty should cost less than this share of a training step, in fewer operators than this, be
so many times faster than the peer's group lasso on scales, and on a GPU take at most so long."""


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


@dataclass(frozen=True)
class Step:
    """What one penalty costs in one training step, in seconds; or why that is not known."""

    device: str
    penalty: str
    ours: float | str
    theirs: float | str
    training: float
    kernels: int

    @property
    def ratio(self) -> float | None:
        """How many times longer the peer's group lasso on scales takes."""
        if isinstance(self.ours, str) or isinstance(self.theirs, str):
            return None
        return self.theirs / self.ours

    @property
    def share(self) -> float | None:
        """Of forward and backward of one batch."""
        return None if isinstance(self.ours, str) else self.ours / self.training

    @property
    def shortfalls(self) -> list[str]:
        """What is not as it was asked; the rare choice of a budget is no ordinary step."""
        if self.penalty == RARE:
            return []
        if isinstance(self.ours, str):
            return [f"{self.penalty} on {self.device}: {self.ours}"]
        found = {
            "takes 1 % of a training step or more": self.ours >= ASKED_SHARE * self.training,
            f"computes {self.kernels} operators": self.kernels >= ASKED_KERNELS,
            f"takes {duration(self.ours)}": self.device != "CPU" and self.ours > ASKED_SECONDS,
            f"is {self.ratio or 0:.1f} times faster than the peer": (
                self.ratio is not None and self.ratio < ASKED_TIMES
            ),
        }
        return [f"{self.penalty} on {self.device} {text}" for text, wrong in found.items() if wrong]


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


def step_cells(step: Step) -> tuple[str, ...]:
    """One row of the table of steps as text."""
    ratio = "" if step.ratio is None else f"{step.ratio:.1f}x"
    share = "" if step.share is None else f"{step.share:.4%}"
    return step.penalty, duration(step.ours), share, str(step.kernels), ratio


STEP_HEADING = ("penalty", "per step", "of forward + backward", "operators",
                "times faster than the peer's group lasso")  # fmt: skip


def grid(heading: Sequence[str], left: int, lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose first ``left`` columns are words and the others numbers."""
    rules = ["---"] * left + ["---:"] * (len(heading) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rules, *lines))


def markdown(rows: Sequence[Row], steps: Sequence[Step], setting: Mapping[str, str | int]) -> str:
    """The tables for the README, with the conditions under them."""
    text = (
        f"{grid(heading(), 2, [cells(row) for row in rows])}\n\n"
        f"Medians of {setting['repetitions']} alternating repetitions in one process, "
        f"CPU ({setting['machine']}, threads: {setting['threads']}), torch {setting['torch']}; "
        f"one 224 x 224 image, {REMOVE:.0%} of the channels. `python -m bench.speed` repeats it.\n"
    )
    return text + "".join(
        steps_markdown([step for step in steps if step.device == device], setting)
        for device in dict.fromkeys(step.device for step in steps)
    )


def steps_markdown(steps: Sequence[Step], setting: Mapping[str, str | int]) -> str:
    """What a penalty costs in a step on one device."""
    return (
        f"\nWhat a penalty adds to a training step of {setting['steps_net']}, in the same run; "
        f"forward and backward of a batch of {BATCH} take {duration(steps[0].training)} on the "
        f"{steps[0].device}:\n\n{grid(STEP_HEADING, 1, [step_cells(step) for step in steps])}\n\n"
        "Operators are those that compute something, as PyTorch dispatches them. A budget watches "
        "until its choice is settled, and chooses some tens of times in a whole training.\n"
    )


def show(rows: Sequence[Row], steps: Sequence[Step]) -> None:
    """Print the tables."""
    listed = ((heading(), [cells(row) for row in rows]),
              (STEP_HEADING, [step_cells(step) for step in steps]))  # fmt: skip
    for head, lines in listed:
        table = Table(*head)
        for line in lines:
            table.add_row(*line)
        Console().print(table)
