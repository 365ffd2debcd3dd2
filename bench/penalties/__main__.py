"""Train a small network under every penalty and write the table: ``python -m bench.penalties``.

Results are kept line by line, so that an interrupted run goes on where it stopped; those of other
sources are made anew.  Ends with an error where runs that must be equal are not.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import gammaslim as gs
from bench.pages import write_between
from bench.penalties import page
from bench.penalties.processes import Found, alone, together
from bench.penalties.settings import PENALTIES, STEPS, Setting, every
from bench.penalties.training import Job
from bench.zoo.results import append, fingerprint, load

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = tuple(Path(__file__).with_name(name) for name in ("settings.py", "training.py"))
"""What the results depend on beside the library."""


def found_in(settings: Sequence[Setting]) -> Iterator[Found]:
    """All of these, those on one process first."""
    yield from alone([setting for setting in settings if setting.ranks == 1])
    yield from together([setting for setting in settings if setting.ranks > 1])


def run(settings: Sequence[Setting], results: Path, sources: str) -> None:
    """Measure; one line of the file each."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("penalties", total=len(settings))
        for setting, found in found_in(settings):
            append(results, {"key": setting.key, "sources": sources, **found})
            shown = "{zeros:.3f} zero, {near:.3f} near, accuracy {accuracy:.3f}".format(**found)
            console.print(f"{setting.key}: {shown}", highlight=False, markup=False)
            progress.advance(task)


def warning() -> str:
    """What the forecast says of a strength that is far too small for this training."""
    job = Job(Setting("none", "SGD", "fp32", "1 process"), 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gs.attach(
            job.model, job.graph, job.optimizer, gs.L1(1e-4),
            total_steps=STEPS, lr=job.setting.rate,
        ).detach()  # fmt: skip
    return f"```text\n{caught[-1].category.__name__}: {caught[-1].message}\n```\n"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.penalties", description=__doc__)
    parser.add_argument("penalties", nargs="*", metavar="PENALTY", help="default: all")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "penalties.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "penalties.md")
    parser.add_argument("--again", action="store_true", help="measure also what is in the file")
    options = parser.parse_args(argv)
    if unknown := sorted({*options.penalties} - {*PENALTIES}):
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(PENALTIES)}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure what is missing, write the page, check; an interruption keeps what is done."""
    options = arguments(argv)
    torch.set_num_threads(1)
    sources = fingerprint(*OWN)
    known = {} if options.again else load(options.results, sources)
    asked = [s for s in every() if not options.penalties or s.penalty in options.penalties]
    try:
        run([setting for setting in asked if setting.key not in known], options.results, sources)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted; {options.results} keeps what is done, and the next run goes on.")
    found = load(options.results, sources)
    write_between(options.page, "bench:penalties", page.text(found))
    write_between(options.page, "bench:penalties:forecast", warning())
    print(f"{options.page} is written.")
    if wrong := page.complaints(found):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
