"""Strengths that change while training: frozen records that give λ for each step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from gammaslim.errors import PenaltyError


class Schedule(ABC):
    """λ as a function of the optimizer step, counted from 0.

    Wherever a penalty takes a ``strength``, a schedule may stand instead of a number.  After its
    last step it keeps its last value.
    """

    @property
    @abstractmethod
    def length(self) -> int:
        """After how many steps it no longer changes."""

    @abstractmethod
    def at(self, step: int) -> float:
        """λ at this step."""


Strength = float | Schedule
"""What a penalty's ``strength`` may be."""


def strength_at(strength: Strength, step: int) -> float:
    """λ at this step, of a number or a schedule."""
    return strength.at(step) if isinstance(strength, Schedule) else strength


def length_of(strength: Strength) -> int:
    """After how many steps a strength no longer changes; 0 for a number."""
    return strength.length if isinstance(strength, Schedule) else 0


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """λ at every step."""

    strength: float

    def __post_init__(self) -> None:
        """Refuse a strength that cannot be used."""
        _check_values(self)

    @property
    def length(self) -> int:
        """It never changes."""
        return 0

    def at(self, step: int) -> float:  # noqa: ARG002 -- it is the same at every step
        """``λ``."""
        return self.strength


@dataclass(frozen=True)
class _Ramp(Schedule):
    """From one λ to another in so many steps."""

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        _check_values(self)

    @property
    def length(self) -> int:
        """``steps``."""
        return self.steps

    def at(self, step: int) -> float:
        """λ at this step."""
        left = self._left(min(step / self.steps, 1.0))
        return left * self.first + (1 - left) * self.last

    @abstractmethod
    def _left(self, share: float) -> float:
        """How much of ``first`` is left when this share of the steps is over: 1 to 0."""


@final
@dataclass(frozen=True)
class Linear(_Ramp):
    """From ``first`` to ``last`` in a straight line: ``first + (last - first) · t / steps``."""

    def _left(self, share: float) -> float:
        return 1 - share


@final
@dataclass(frozen=True)
class Cosine(_Ramp):
    """From ``first`` to ``last`` along half a cosine: slow, fast, slow.

    ``last + (first - last) · (1 + cos(π t / steps)) / 2``
    """

    def _left(self, share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2


@final
@dataclass(frozen=True)
class Warmup(Schedule):
    """``strength``, which may be a schedule, times ``min(1, (t + 1) / steps)``."""

    strength: Strength
    steps: int

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        _check_values(self)

    @property
    def length(self) -> int:
        """The longer of the two."""
        return max(self.steps, length_of(self.strength))

    def at(self, step: int) -> float:
        """λ at this step."""
        return strength_at(self.strength, step) * min((step + 1) / self.steps, 1.0)


@final
@dataclass(frozen=True)
class After(Schedule):
    """Nothing until ``fraction`` of ``steps`` is over, then ``strength``, from its own step 0 on.

    Args:
        fraction: share of ``steps`` without a penalty, 0 to 1.
        strength: λ, or a schedule that is over before ``steps`` are.
        steps: the optimizer steps of the whole training.

    Raises:
        PenaltyError: a number makes no sense, or ``strength`` is a schedule that takes more steps
            than remain.
    """

    fraction: float
    strength: Strength
    steps: int

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        _check_values(self)
        if not 0 <= self.fraction <= 1:
            raise PenaltyError(
                f"After(fraction={self.fraction!r}) was asked; it is a share of the steps, 0 to 1."
            )
        left = self.steps - self._begin
        if length_of(self.strength) > left:
            raise PenaltyError(
                f"After({self.fraction}, ..., steps={self.steps}) leaves {left} steps, but its "
                f"strength is a schedule of {length_of(self.strength)}. Shorten that, or give more "
                "steps."
            )

    @property
    def _begin(self) -> int:
        return math.ceil(self.fraction * self.steps)

    @property
    def length(self) -> int:
        """``steps``."""
        return self.steps

    def at(self, step: int) -> float:
        """λ at this step."""
        begin = self._begin
        return 0.0 if step < begin else strength_at(self.strength, step - begin)


def check_strength(owner: str, argument: str, value: object) -> None:
    """Refuse a strength unless it is a schedule or a finite number, 0 or above.

    Raises:
        PenaltyError: it is not.
    """
    if isinstance(value, Schedule):
        return
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise PenaltyError(
            f"{owner}({argument}={value!r}) was asked; {argument} must be a finite number, 0 or "
            "above, or a schedule such as gs.schedules.Cosine(1e-4, 0.0, steps=1000)."
        )


def _check_values(schedule: Constant | _Ramp | Warmup | After) -> None:
    name, values = type(schedule).__name__, vars(schedule)
    for argument in ("strength", "first", "last"):
        if argument in values:
            check_strength(name, argument, values[argument])
    steps = values.get("steps", 1)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise PenaltyError(f"{name}(steps={steps!r}) was asked; steps must be an integer above 0.")
