"""A penalty at work: its hooks in the optimizers, its clock, and what it can tell."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.channels import ChannelGraph, Cut, Plan
from gammaslim.errors import OptimizerError, PenaltyError, StaleGraphError
from gammaslim.network import PROCESS
from gammaslim.penalties import AnyPenalty, Moment, Scales
from gammaslim.training.flat_vector import Atlas, Layout, multiply_copies, owning
from gammaslim.training.forecasting import Forecast, Rates, forecast
from gammaslim.training.stats import Stats, watch


class Part:
    """One optimizer: which of the layout's parameters it trains, and the hooks in it."""

    def __init__(self, optimizer: Optimizer, mine: Sequence[int]) -> None:
        """Without hooks so far."""
        self.optimizer = weakref.ref(optimizer)
        self.name = type(optimizer).__name__
        self.mine = tuple(mine)
        self.hooks: list[Any] = []
        self.skipped: Tensor | None = None

    def moved(self, factors: Tensor) -> Tensor:
        """These factors, or 1 where the optimizer has skipped its step."""
        if self.skipped is None:
            return factors
        return factors.masked_fill(self.skipped.to(factors.device) != 0, 1.0)


class Attachment:
    """A penalty at work; made by :func:`gammaslim.attach`, ended by :meth:`detach`.

    A *round* is one step of each optimizer, in whatever order.  The penalty sees the scales as they
    are when a round begins, and shrinks values when it ends, so that several optimizers do the same
    as one.  An optimizer that steps again before the others have begins the next round.
    """

    def __init__(
        self,
        penalty: AnyPenalty,
        graph: ChannelGraph,
        layout: Layout,
        optimizers: Sequence[Optimizer],
        copies: Sequence[Tensor] | None,
    ) -> None:
        """Hook into the optimizers; use :func:`gammaslim.attach`, which checks first."""
        self._penalty = penalty
        self._work = penalty.begin(graph, layout.atlas.numbers)
        self._graph = graph
        self._layout = layout
        self._copies = copies
        self._steps = 0
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        owners = owning(optimizers, layout.parameters)
        mine = [[i for i, own in enumerate(owners) if own[0] == n] for n in range(len(optimizers))]
        self._parts = tuple(Part(o, m) for o, m in zip(optimizers, mine, strict=True) if m)
        self._waiting = set(self._parts)
        self._term: Tensor | None = None
        for part in self._parts:
            self._hook_into(part)

    @property
    def penalty(self) -> AnyPenalty:
        """The penalty given to :func:`attach`."""
        return self._penalty

    @property
    def graph(self) -> ChannelGraph:
        """The channels it acts on: those of the cut network, once it has followed a cut."""
        return self._graph

    @property
    def active(self) -> bool:
        """Whether the penalty still acts."""
        return any(part.hooks for part in self._parts)

    @property
    def steps(self) -> int:
        """How many optimizer steps have been taken with it."""
        return self._steps

    def detach(self) -> None:
        """Stop penalising; nothing happens the second time."""
        for part in self._parts:
            while part.hooks:
                part.hooks.pop().remove()

    def covers(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether it is active on any of these parameters."""
        mine = {id(parameter) for parameter in self._layout.parameters}
        return self.active and any(id(parameter) in mine for parameter in parameters)

    def forecast(self, total_steps: int, lr: Rates | None = None) -> Forecast:
        """How far the penalty can move scales in a training, against where they are now.

        Args:
            total_steps: optimizer steps of the training, counted from its beginning.
            lr: the learning rate: a number, one number per step, or a function of the step;
                ``None`` takes the optimizer's present one for all steps.

        Raises:
            PenaltyError: the penalty's schedule or budget takes more than ``total_steps``, or
                ``lr`` is not what it should be.
            OptimizerError: the optimizer is gone.
        """
        optimizers = [optimizer for each in self._optimizers if (optimizer := each()) is not None]
        if len(optimizers) < len(self._optimizers):
            raise OptimizerError(
                f"A forecast of {self!r} was asked, but its optimizer is gone: nothing refers to "
                "it any more. Attach the one that trains now."
            )
        return forecast(self._penalty, optimizers, self._layout.on_device(), total_steps, lr)

    def stats(self) -> Stats:
        """What the penalty has achieved so far; cheap enough for every hundred steps.

        Reads the scales back once.  Where they are sharded, every process has to call it.
        """
        strength = self._penalty.strength_at(max(self._steps - 1, 0))
        return watch(self._graph, self._layout.on_device(), self._steps, strength)

    def plan(self) -> Plan:
        """The plan that removes what a :class:`Budget` has brought to zero.

        Raises:
            PenaltyError: the penalty is no budget, or its channels are not all zero yet.
        """
        if not self.ready_for_cut:
            raise PenaltyError(
                f"The plan of {self._penalty!r} was asked after {self._steps} optimizer steps, but "
                f"channels are exactly zero only after {self._penalty.zero_at}. Train on, or give "
                "the budget as many steps as the training has."
            )
        plan = self._work.plan()
        if plan is None:
            raise PenaltyError(
                f"A plan was asked of {self._penalty!r}; only a Budget decides by itself what "
                "goes. Use gs.select(graph, gs.scores(model, graph), ...)."
            )
        return plan

    @property
    def ready_for_cut(self) -> bool:
        """Whether a cut can be followed now: a budget has to reach its zeros first."""
        return self._steps >= (self._penalty.zero_at or 0)

    def check_cut(self, graph: ChannelGraph) -> None:
        """Refuse a cut that it could not follow.

        Raises:
            StaleGraphError: it acts on another graph.
            PenaltyError: it is a budget that still chooses or shrinks.
        """
        if graph is not self._graph:
            raise StaleGraphError(
                f"{self!r} acts on another graph than the one given for the cut. Select from "
                "handle.graph, which follows every cut, and prune with it."
            )
        if not self.ready_for_cut:
            raise PenaltyError(
                f"A cut was asked after {self._steps} steps of {self._penalty!r}, which chooses "
                f"and shrinks until step {self._penalty.zero_at}. Cut then, or later."
            )

    def follow(self, cut: Cut, graph: ChannelGraph) -> None:
        """Go on with what a cut has left, as if the other channels had never been there.

        :func:`gammaslim.prune` does this for its ``handle``.

        Args:
            cut: of the graph so far.
            graph: of the cut network.
        """
        names, parameters = self._layout.atlas.names, self._layout.parameters
        stays = [index for index, name in enumerate(names) if name in graph.shapes]
        atlas = Atlas.of(graph, [names[index] for index in stays])
        for part in self._parts:
            part.mine = tuple(stays.index(i) for i in part.mine if i in stays)
        if self._copies is not None:
            self._copies = [self._copies[index] for index in stays]
        self._penalty = self._penalty.after(cut)
        numbers = atlas.numbers
        before = np.where(numbers < 0, numbers, np.flatnonzero(cut.keep)[np.maximum(numbers, 0)])
        places = np.searchsorted(self._layout.atlas.numbers, before)
        self._work.follow(graph, numbers, places)
        optimizers = [o for each in self._optimizers if (o := each()) is not None]
        left = [parameters[index] for index in stays]
        self._layout = Layout.of(atlas, left, optimizers, self._penalty.channel_weights)
        self._graph, self._term = graph, None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, so that training goes on from it bit for bit."""
        learnt = self._work.state_dict()
        return {"penalty": repr(self._penalty), "steps": self._steps, "settling": learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, with the same penalty on the same network.

        Raises:
            PenaltyError: the state is of another penalty, or of another network; nothing changes.
        """
        if state.get("penalty") != repr(self._penalty) or not isinstance(state.get("steps"), int):
            raise PenaltyError(
                f"The state of {self._penalty!r} was expected; found that of "
                f"{state.get('penalty', 'something else')}. Attach the penalty it was saved with."
            )
        self._work.load_state_dict(state.get("settling") or {})
        self._steps = state["steps"]

    def __enter__(self) -> Self:
        """The handle itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Detach."""
        self.detach()

    def __copy__(self) -> Self:
        """The handle itself: there is one for what was attached, and copies have no hooks."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The handle itself, also where a network that refers to it is copied."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: hooks in an optimizer cannot be.

        Raises:
            PenaltyError: always.
        """
        raise PenaltyError(
            f"{self!r} was to be pickled; it acts on one optimizer in one process. Save its "
            "state_dict(), attach again after loading, and give it to load_state_dict()."
        )

    def __repr__(self) -> str:
        """A one-line summary."""
        atlas = self._layout.atlas
        owned = sum(len(part.mine) for part in self._parts)
        where = ", ".join(part.name for part in self._parts)
        state = "" if self.active else ", detached"
        kind = "scale" if atlas.scale.all() else "scale and shift"
        return (
            f"Attachment({self._penalty!r} on {owned} of {len(atlas.names)} {kind} tensors "
            f"({len(atlas.channels)} elements) in {where}{state})"
        )

    def _hook_into(self, part: Part) -> None:
        optimizer = part.optimizer()
        if optimizer is None:
            return

        def before(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return self._before_step(part, args, kwargs)

        def after(optimizer: Optimizer, *_: Any) -> None:
            self._after_step(part, optimizer)

        # A compiled step would follow the hooks, and compile again for every new step count.
        disable: Any = functools.partial(torch.compiler.disable, reason="a hook of gammaslim's")
        part.hooks.append(optimizer.register_step_pre_hook(disable(before)))
        part.hooks.append(optimizer.register_step_post_hook(disable(after)))
        PROCESS.attached(optimizer, self)

    def _before_step(self, part: Part, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Step pre-hook.  ``args[0]`` is the optimizer itself."""
        if part not in self._waiting:
            self._end_round()
        optimizer: Optimizer = args[0]
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._with_gradients(part, optimizer)
            return None

        def penalised() -> Any:
            # The closure zeroes and refills the gradients inside step (Lightning, LBFGS), so a term
            # added before would be lost.
            loss = closure()
            self._with_gradients(part, optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": penalised}
        return (*args[:1], penalised, *args[2:]), kwargs

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def _with_gradients(self, part: Part, optimizer: Optimizer) -> None:
        """The gradients are what the optimizer is about to use."""
        layout = self._layout = self._layout.on_device()
        grad_scale = getattr(optimizer, "grad_scale", None)
        scaled = grad_scale.to(layout.channels.device) if isinstance(grad_scale, Tensor) else None

        def gradients() -> Tensor:
            found = layout.gather_gradients(part.mine)
            return found if scaled is None else found / scaled

        moment = self._moment(lambda: layout.scales(layout.gather()))
        if self._term is None or len(self._waiting) == len(self._parts):
            self._term = self._work.gradient(moment)
        if self._term is not None:
            term = self._term if scaled is None else self._term * scaled
            layout.scatter(term, self._strength, part.mine)
        self._work.observe(moment, gradients)

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def _after_step(self, part: Part, optimizer: Optimizer) -> None:
        """Step post-hook."""
        # Fused optimizers skip a step by themselves where gradients overflowed.
        overflow = getattr(optimizer, "found_inf", None)
        part.skipped = overflow if isinstance(overflow, Tensor) else None
        self._waiting.discard(part)
        if not self._waiting:
            self._end_round()

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def _end_round(self) -> None:
        """Shrink values, and set the clock forward."""
        layout = self._layout = self._layout.on_device()
        self._work.advance(self._steps)

        def scales() -> Scales:
            values, optimizers = layout.gather(), [optimizer() for optimizer in self._optimizers]
            rates = layout.rates(optimizers, values)
            return layout.scales(values, rates * self._strength)

        factors = self._work.factors(self._moment(scales))
        if factors is not None:
            zero_at = self._penalty.zero_at
            # A budget's last factor, 0, holds whether an optimizer has stepped or not.
            last = zero_at is not None and self._steps >= zero_at - 1
            for part in self._parts:
                if last or part not in self._waiting:
                    layout.multiply(factors if last else part.moved(factors), part.mine)
            if self._copies is not None:
                multiply_copies(self._copies, layout.alive(), layout.widths)
        self._steps += 1
        self._term = None
        self._waiting = set(self._parts)

    @property
    def _strength(self) -> float:
        """λ at this step, or 1 where no λ decides."""
        strength = self._penalty.strength_at(self._steps)
        return 1.0 if strength is None else strength

    def _moment(self, scales: Callable[[], Scales]) -> Moment:
        layout = self._layout

        def channels() -> Tensor:
            layout.check()
            return layout.channels

        return Moment(self._steps, channels, scales)
