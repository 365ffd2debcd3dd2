"""Run the zoo and write its page: ``python -m bench.zoo [KEY ...]``.

Results are kept line by line, so that an interrupted run goes on where it stopped; those of other
sources of the library than the present ones are made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.zoo.entries import ENTRIES
from bench.zoo.page import page, peer_outcome, verdict
from bench.zoo.results import Record, append, fingerprint, load

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def examined(key: str, side: str, limit: int) -> Record:
    """One side of one network in its own process; what goes wrong there is the record."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        command = [sys.executable, "-W", "ignore", "-m", "bench.zoo.one", key, side, str(file)]
        try:
            done = subprocess.run(  # noqa: S603 -- our own module
                command, cwd=ROOT, env={**os.environ, **ONE_CORE}, timeout=limit,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"failed": f"over {limit} s"}
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"failed": f"ends with {done.returncode}: {last}"[:400]}


def measured(key: str, options: argparse.Namespace) -> Record:
    """Both sides of one network, one after the other."""
    record = {"key": key, "sources": fingerprint()}
    record["ours"] = examined(key, "ours", options.limit)
    if not options.no_peer:
        record["peer"] = examined(key, "peer", options.peer_limit)
    return record


def line(record: Record) -> str:
    """What was found, for the screen."""
    ours = record["ours"]
    form = "{coverage:.3f} coverage, trace {trace_s:.2f} s"
    numbers = f", {form.format(**ours)}" if "cuts" in ours else ""
    peer = f"; peer {peer_outcome(record['peer'])}" if "peer" in record else ""
    return f"{record['key']}: {verdict(ours)}{numbers}{peer}"


def run(keys: Sequence[str], options: argparse.Namespace) -> None:
    """Measure what is not there yet; one line of the file each."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("zoo", total=len(keys))
        for key in keys:
            progress.update(task, description=key)
            record = measured(key, options)
            append(options.results, record)
            console.print(line(record), highlight=False, markup=False)
            progress.advance(task)


def missing(keys: Sequence[str], options: argparse.Namespace) -> list[str]:
    """The networks that the file does not know, or knows from other sources."""
    known = {} if options.again else load(options.results, fingerprint())
    return [key for key in keys if key not in known]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description=__doc__)
    every = [entry.key for entry in ENTRIES]
    parser.add_argument("keys", nargs="*", metavar="KEY", help="timm:resnet10t or so; default all")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "zoo.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "zoo.md")
    parser.add_argument("--again", action="store_true", help="measure also what is in the file")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one network")
    parser.add_argument("--peer-limit", type=int, default=120, help="seconds for Torch-Pruning")
    options = parser.parse_args(argv)
    if unknown := sorted({*options.keys} - {*every}):
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(every)}")
    options.keys = options.keys or every
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure and write the page; an interruption keeps what is done."""
    options = arguments(argv)
    torch.set_num_threads(1)
    try:
        run(missing(options.keys, options), options)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted; {options.results} keeps what is done, and the next run goes on.")
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(page(load(options.results, fingerprint())), encoding="utf-8")
    print(f"{options.page} is written.")


if __name__ == "__main__":
    main()
