"""Timing arms that take turns, each with a limit."""

from __future__ import annotations

import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

STEPS = 5

Arm = Callable[[], float]
"""Sets itself up, then returns the seconds that the measured part took."""


def per_call(function: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    """Median seconds of a few calls, each after one of ``before``, which does not count.

    A call of over a second is measured only once.
    """
    times: list[float] = []
    while len(times) <= STEPS and sum(times) < 1:
        if before is not None:
            before()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def late(prepare: Callable[[], Arm]) -> Arm:
    """An arm whose preparation is done once, at its first call, so that it may fail like it."""
    ready: list[Arm] = []

    def run() -> float:
        """Prepare if need be, then measure."""
        if not ready:
            ready.append(prepare())
        return ready[0]()

    return run


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError when the body takes longer."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        """End the body."""
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def measure(arms: Mapping[str, Arm], repetitions: int, limit: int) -> dict[str, float | str]:
    """Median seconds per arm, the arms taking turns; an arm that fails is out at once."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    failed: dict[str, str] = {}
    for _ in range(repetitions + 1):
        for name, arm in arms.items():
            if name in failed:
                continue
            try:
                with limited(limit), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    times[name].append(arm())
            except TimeoutError:
                failed[name] = f"over {limit} s"
            except Exception as error:  # noqa: BLE001 -- whatever a library raises is the result
                failed[name] = f"fails: {type(error).__name__}"
                print(f"  {name}: {error!r}"[:300], file=sys.stderr)
    return {name: failed.get(name) or statistics.median(times[name][1:]) for name in arms}
