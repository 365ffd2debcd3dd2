"""Run what is missing and write the page: ``python -m bench.accuracy``.

Results are kept line by line, so that an interrupted run goes on where it stopped. Everything is
run with seed 0 first, then with seed 1, and so on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.accuracy import glyphs
from bench.accuracy.grid import METHODS, SHARES, Entry, entries
from bench.accuracy.nets import NETWORKS
from bench.accuracy.one import run
from bench.accuracy.page import page
from bench.accuracy.plot import plot
from bench.accuracy.results import Record, load
from bench.accuracy.setup import Setup
from bench.zoo.results import append

ROOT = Path(__file__).resolve().parent.parent.parent


def wanted(options: argparse.Namespace) -> list[Entry]:
    """The runs that were asked for, in their order."""
    asked = set(options.only or ())
    axes = [asked & set(names) for names in (METHODS, NETWORKS, map(str, SHARES))]

    def is_wanted(entry: Entry) -> bool:
        values = (entry.method, entry.net, f"{entry.share:g}")
        return all(not some or value in some for some, value in zip(axes, values, strict=True))

    return [entry for entry in entries(options.seeds) if is_wanted(entry)]


def line(record: Record) -> str:
    """What was found, for the screen."""
    steps = [record[name] for name in ("before", "after_cut", "final") if name in record]
    accuracies = " → ".join(f"{100 * value:.1f}" for value in steps)
    return f"{record['key']}: {accuracies} %, {record['macs']:.3f} MACs, {record['cpu_s']:.0f} s"


def measure(missing: Sequence[Entry], setup: Setup, options: argparse.Namespace) -> None:
    """Run them one after the other, one line of the file each, until the time is over."""
    start = time.perf_counter()
    pictures = glyphs.load(glyphs.Recipe(train=setup.train, test=setup.test))
    done = load(options.results, setup.recipe)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("accuracy", total=len(missing))
        for entry in missing:
            if time.perf_counter() - start > options.budget_seconds:
                console.print(f"{options.budget_seconds:g} seconds are over.")
                return
            progress.update(task, description=entry.key)
            try:
                record = run(entry, setup, pictures, done)
            except LookupError as error:
                console.print(f"left out: {error}", highlight=False, markup=False)
                continue
            append(options.results, record)
            done[entry.key] = record
            console.print(line(record), highlight=False, markup=False)
            progress.advance(task)


def write(options: argparse.Namespace, setup: Setup) -> None:
    """The page and its picture, from the results alone."""
    records = list(load(options.results, setup.recipe).values())
    options.page.parent.mkdir(parents=True, exist_ok=True)
    picture = options.page.with_suffix(".png")
    plot(records, picture)
    options.page.write_text(page(records, setup, picture.name), encoding="utf-8")
    print(f"{options.page} and {picture} are written.")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    every = (*METHODS, *NETWORKS, *map(str, SHARES))
    parser.add_argument("--only", nargs="+", choices=every, help="methods, networks or shares")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on; default 3")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), metavar="N",
                        help="start no further run after so many seconds")  # fmt: skip
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results.jsonl")
    parser.add_argument("--out", dest="path", type=Path, default=ROOT / "docs" / "accuracy.md")
    options = parser.parse_args(argv)
    options.page_only, options.page = options.page, options.path
    return options


def main(argv: list[str] | None = None, setup: Setup | None = None) -> None:
    """Run and write the page; an interruption keeps what is done."""
    options, setup = arguments(argv), setup or Setup()
    torch.set_num_threads(1)
    if not options.page_only:
        known = load(options.results, setup.recipe)
        missing = [entry for entry in wanted(options) if entry.key not in known]
        try:
            measure(missing, setup, options)
        except KeyboardInterrupt:
            sys.exit(f"Interrupted; {options.results} keeps what is done; the next run goes on.")
    write(options, setup)


if __name__ == "__main__":
    main()
