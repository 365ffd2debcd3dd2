"""Taking changes back, the last one first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Undo:
    """What was changed, as steps that each take one change back; calling it takes all back."""

    steps: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])

    def __call__(self) -> None:
        """Take everything back."""
        while self.steps:
            self.steps.pop()()
