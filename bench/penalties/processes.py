"""Runs on one process, or on two that are started once and take all their runs one by one."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from queue import Empty
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import distributed

from bench.penalties.settings import Setting
from bench.penalties.training import run
from gammaslim.demo.data import load_digits

PATIENCE = timedelta(seconds=120)
"""How long a rank waits for the other."""

Found = tuple[Setting, dict[str, Any]]


def alone(settings: Sequence[Setting]) -> Iterator[Found]:
    """In this process."""
    digits = load_digits()
    for setting in settings:
        yield setting, run(setting, 0, digits)


def together(settings: Sequence[Setting]) -> Iterator[Found]:
    """Over two new processes that speak gloo; what rank 0 finds.

    Raises:
        SystemExit: one of them ended early; its traceback is in the text.
    """
    if not settings:
        return
    context = mp.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        ranks = [
            context.Process(target=_rank, args=(rank, meeting, list(settings), queue), daemon=True)
            for rank in range(2)
        ]
        for process in ranks:
            process.start()
        try:
            for setting in settings:
                yield setting, _next(queue, ranks)
        finally:
            for process in ranks:
                process.join(timeout=10)
                process.terminate()


def _next(queue: Any, ranks: Sequence[Any]) -> dict[str, Any]:
    while True:
        try:
            found = queue.get(timeout=1)
        except Empty:
            if any(process.exitcode for process in ranks):
                raise SystemExit("A rank ended early, without a word.") from None
            continue
        if isinstance(found, str):
            raise SystemExit(found)
        return found


def _rank(rank: int, meeting: str, settings: Sequence[Setting], queue: Any) -> None:
    """All runs, on one of the two processes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=2, timeout=PATIENCE
        )
        digits = load_digits()
        for setting in settings:
            found = run(setting, rank, digits)
            if rank == 0:
                queue.put(found)
        distributed.destroy_process_group()
    except BaseException:  # whatever it is, the parent has to know
        queue.put(f"rank {rank}: {traceback.format_exc()}")
        raise
