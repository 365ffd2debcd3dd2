"""All that gammaslim holds for a whole process, in one object: :data:`PROCESS`.

Besides it there are only the tables of rules, which are filled by code and hold no model.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Size, Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary


class Handle(Protocol):
    """A penalty at work in an optimizer."""

    def covers(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether it is active on any of these parameters."""
        ...


class Process:
    """What one thread has to know of another, or a call of an earlier one.

    Nothing here keeps a network, a tensor or an optimizer alive:

    =================  ==================================  =====================================
    what               held                                until
    =================  ==================================  =====================================
    shapes before cut  by the cut parameter, weakly        the parameter is gone
    hook in optimizer  while a cut parameter lives         the next run or cut after the last one
    penalties at work  by optimizer, both weakly           either is gone
    fake results       shapes and types, no tensor         ``FakeMemo`` finds them to be too many
    =================  ==================================  =====================================
    """

    def __init__(self) -> None:
        """Nothing to know so far."""
        self.fake_results: dict[Any, Any] = {}
        self._running = threading.RLock()
        self._lock = threading.RLock()
        self._handles: WeakKeyDictionary[Optimizer, WeakSet[Handle]] = WeakKeyDictionary()
        self._cut: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._cuts = 0
        self._seen: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._hook: RemovableHandle | None = None

    @property
    def known(self) -> int:
        """How many cut parameters and optimizers with a penalty are known, and so still alive."""
        with self._lock:
            return len(self._cut) + len(self._handles)

    @property
    def hooked(self) -> bool:
        """Whether the steps of all optimizers are watched."""
        return self._hook is not None

    def attached(self, optimizer: Optimizer, handle: Handle) -> None:
        """A penalty has begun to work in an optimizer."""
        with self._lock:
            self._handles.setdefault(optimizer, WeakSet()).add(handle)

    def handles(self, optimizer: Optimizer) -> tuple[Handle, ...]:
        """The penalties that an optimizer has or had."""
        with self._lock:
            return tuple(self._handles.get(optimizer, ()))

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """One thread at a time: what all threads share is set inside, and put back at the end.

        Random states, warnings, precision, the collector: two runs that overlapped would put back
        each other's.
        """
        with self._running:
            self.tidy()
            yield

    def cut(self, shapes: Mapping[nn.Parameter, Size], look: Callable[[Optimizer], None]) -> None:
        """These parameters were cut, and had these shapes before.

        Every optimizer is shown to ``look`` at its next step, and again until that raises nothing.
        """
        # A compiled step would follow the hook, and compile again for every cut.
        disable: Any = functools.partial(torch.compiler.disable, reason="a hook of gammaslim's")

        @disable
        def before_step(optimizer: Optimizer, *_: Any) -> None:
            cuts = self._cuts
            if self._seen.get(optimizer) != cuts:
                look(optimizer)
                self._seen[optimizer] = cuts

        with self._lock:
            self.tidy()
            self._cut.update(shapes)
            self._cuts += 1
            if self._hook is None and len(self._cut):
                self._hook = register_optimizer_step_pre_hook(before_step)

    def shape_before_cut(self, parameter: Tensor) -> Size | None:
        """The shape that a parameter had before its last cut; ``None`` if it was never cut."""
        with self._lock:
            return self._cut.get(parameter)

    def tidy(self) -> None:
        """Remove the hook where no cut parameter is left.

        PyTorch walks over its hooks while they run, and fails where one goes meanwhile: neither the
        hook itself nor the end of a parameter, which may come at any time, can remove it.
        """
        with self._lock:
            if self._hook is not None and not len(self._cut):
                self._hook.remove()
                self._hook = None


PROCESS = Process()
