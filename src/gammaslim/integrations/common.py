"""What the callbacks of all trainers share: one penalty, from before to after one training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gammaslim.arrays import Site
from gammaslim.channels import ChannelGraph
from gammaslim.errors import GammaslimError, MissingExtraError, PenaltyError
from gammaslim.network import map_tensors
from gammaslim.penalties import AnyPenalty
from gammaslim.tracing import trace
from gammaslim.training import Attachment, attach

PenaltySource = AnyPenalty | Callable[[int], AnyPenalty]
"""A penalty, or a function from the number of optimizer steps to one."""

PREFIX = "gammaslim/"
"""In front of every figure's name in a trainer's logs."""


@dataclass(frozen=True)
class Steps:
    """How many optimizer steps a training has in all, and how many it has behind it.

    ``total`` is ``None`` where nobody knows in advance.
    """

    total: int | None
    done: int = 0

    @property
    def left(self) -> int | None:
        """Those still to come."""
        return None if self.total is None else max(self.total - self.done, 0)


class Session:
    """A penalty that waits for the network and the optimizer that a trainer makes.

    Trainers restore checkpoints before, while or after they build the optimizer; a state that
    arrives early is held back until there is a handle to take it.
    """

    def __init__(
        self,
        penalty: PenaltySource,
        ignore: Iterable[nn.Module | str | Site] = (),
        *,
        exact: bool = False,
    ) -> None:
        """Remember what to do; nothing is traced yet.

        Raises:
            PenaltyError: ``penalty`` is neither a penalty nor a function that makes one.
        """
        if not isinstance(penalty, AnyPenalty) and not callable(penalty):
            raise PenaltyError(
                f"A penalty such as L1(1e-4) is needed, or a function from the number of optimizer "
                f"steps to one; found {penalty!r}."
            )
        self._penalty = penalty
        self._ignore = tuple(ignore)
        self._exact = exact
        self._held: dict[str, Any] | None = None
        self._begun: _Begun | None = None

    @property
    def network(self) -> nn.Module:
        """The network that was traced; what ``gs.scores`` and ``gs.prune`` are called with."""
        return self._now().network

    @property
    def graph(self) -> ChannelGraph:
        """Its channels."""
        return self._now().graph

    @property
    def handle(self) -> Attachment:
        """What :func:`gammaslim.attach` returned; detached once the training has ended."""
        return self._now().handle

    def begin(
        self,
        network: nn.Module,
        example_inputs: Any,
        optimizers: Sequence[Optimizer],
        steps: Steps,
        *,
        ema: nn.Module | None = None,
    ) -> None:
        """Trace the network, attach the penalty, and give the handle the state held back for it.

        A penalty that knows nothing of the steps already done gets only those that are left.

        Raises:
            PenaltyError: the penalty is a function and the number of steps is unknown.
            GammaslimError: what :func:`gammaslim.trace`, :func:`gammaslim.attach` and the handle's
                ``load_state_dict`` raise.
        """
        self.end()
        state, self._held = self._held, None
        total = steps.left if state is None else steps.total
        penalty = self._penalty
        if not isinstance(penalty, AnyPenalty):
            if total is None:
                raise PenaltyError(
                    "The penalty is a function of the number of optimizer steps, which this "
                    "training does not know in advance. Limit its steps, or pass a penalty instead "
                    "of a function."
                )
            penalty = penalty(total)
        parameter = next(network.parameters(), None)
        if parameter is not None:
            example_inputs = map_tensors(example_inputs, lambda t: t.to(parameter.device))
        graph = trace(network, example_inputs, self._ignore, self._exact)
        handle = attach(
            network, graph, optimizers, penalty, total_steps=total, lr=_peak(optimizers), ema=ema
        )
        if state is not None:
            try:
                handle.load_state_dict(state)
            except GammaslimError:
                handle.detach()
                raise
        self._begun = _Begun(network, graph, handle)

    def end(self) -> None:
        """Detach; what was found stays readable."""
        if self._begun is not None:
            self._begun.handle.detach()

    def logs(self) -> dict[str, float]:
        """The handle's figures, each name with ``"gammaslim/"`` before it; empty unless active."""
        if self._begun is None or not self._begun.handle.active:
            return {}
        figures = self._begun.handle.stats().as_dict()
        return {f"{PREFIX}{name}": value for name, value in figures.items()}

    def state_dict(self) -> dict[str, Any]:
        """The handle's state, or the one that is still held back; empty if there is neither."""
        if self._held is not None or self._begun is None:
            return self._held or {}
        return self._begun.handle.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold a state back for the next :meth:`begin`; an empty one counts as none."""
        self._held = dict(state_dict) or None

    def _now(self) -> _Begun:
        if self._begun is None:
            raise GammaslimError(
                "The graph or handle of a training was asked for, but that training has not "
                "begun: they are made when the trainer has its optimizer. Ask after training "
                "(in this process: trainers that start others leave nothing here)."
            )
        return self._begun


@dataclass(frozen=True)
class _Begun:
    network: nn.Module
    graph: ChannelGraph
    handle: Attachment


def missing(package: str, extra: str, error: ImportError) -> MissingExtraError:
    """The error for a trainer that cannot be imported."""
    return MissingExtraError(
        f"gammaslim.integrations.{extra} was imported, but {package} cannot be imported ({error}). "
        f"Install it: pip install 'gammaslim[{extra}]'."
    )


def _peak(optimizers: Sequence[Optimizer]) -> float:
    """The highest learning rate that the optimizers' groups speak of.

    When training begins, schedulers that warm up have already set a low one; a forecast from that
    would warn without need.  One from the peak is an upper bound.
    """
    names = ("lr", "initial_lr", "max_lr")
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return max(float(group[name]) for group in groups for name in names if name in group)
