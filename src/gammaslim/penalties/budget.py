"""A budget instead of a strength: what is to remain, and in how many steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gammaslim.arrays import BoolArray, FloatArray, IntArray
from gammaslim.channels import ChannelGraph, CostKind, Cut, Plan, channel_costs
from gammaslim.errors import PenaltyError, TargetError
from gammaslim.penalties.base import AnyPenalty
from gammaslim.penalties.budget_widths import banded
from gammaslim.penalties.work import Moment, Work
from gammaslim.selecting import Limits

FEWEST_STEPS = 10
"""Below this there is no time to look, to choose and to shrink."""

EVERY = 0.01
"""Fraction of the steps after which the choice is made anew.

Each choice reads the scores back from their device once; no other step waits for it.
"""

LOOKS_BACK = 0.05
"""Fraction of the steps over which the running mean of the scores looks back."""


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Budget(AnyPenalty):
    """Shrinks as many channels to exactly zero as a target asks for; there is no λ to choose.

    While training goes on as usual, each prunable channel c gets a score: the running mean of the
    squared effect that its removal would have on the loss L, to first order,
    ``s_c = mean_t (Σ γ ∂L/∂γ + Σ β ∂L/∂β)²``, the sums over all its scales and shifts.  Between the
    fractions ``start`` and ``settle`` of the steps, the channels of the lowest ``s_c / cost_c^p``
    are chosen, again and again, for a target that is approached in equal ratios (``keep^u``); a
    channel may be dropped from the choice while it lives.  No group becomes much narrower or wider
    than if all were narrowed alike: its width stays within ``band`` times that.  The channels that
    are chosen shrink: after step t, scales and shifts are multiplied by ``(T − t) / (T − t + 1)``,
    so that all of them reach zero at ``T = end · steps``, and stay there.  The cut that follows
    meets the target to within one channel per group and changes no prediction.

    How it fares beside other methods is in ``docs/accuracy.md``.

    Args:
        steps: how many optimizer steps the training has, or that part of it which is to be used.
        keep_macs: share 0..1 of the MACs that may remain ...
        keep_params: ... or of the parameters ...
        remove_channels: ... or share of the prunable channels to remove: exactly one of these.
        start: fraction of the steps at which channels are first chosen.
        settle: fraction at which the choice is final.
        end: fraction at which the chosen channels are exactly zero; what remains of the steps is
            training of the others.
        cost_power: p, how much the cost that a channel saves counts against its score.
        costs: what each channel of the graph saves, if not what the target is about: with
            :func:`gammaslim.channel_latencies`, slow channels go before others.
        min_channels: every group keeps at least this many channels.
        band: the least and largest width of a group, as multiples of its width if all groups were
            narrowed by the same ratio to the same target.  Where the target cannot be met within
            it, it is widened.
        max_remove: at most this share of a group's width may go.
        round_to: a group keeps its full width or a multiple of this.

    Raises:
        PenaltyError: the steps are too few, or the fractions are out of order.
        TargetError: there is not exactly one target, or it is no share.

    Example:
        ``handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.5, steps=10_000))``,
        then after training ``plan = handle.plan()``.

    Source: the score is that of Molchanov et al., "Importance Estimation for Neural Network
    Pruning", CVPR 2019, arXiv 1906.10771, on a channel's scales and shifts.  Related: HESSO of the
    OTO family (Chen et al., arXiv 2305.18030, 2312.09411) also picks redundant groups while
    training and projects them to zero, over all their weights and without looking back; GReg (Wang
    et al., arXiv 2012.09243) lets the penalty of chosen weights grow; here there is no penalty, and
    zero is reached at a step that is known beforehand.
    """

    steps: int
    keep_macs: float | None = None
    keep_params: float | None = None
    remove_channels: float | None = None
    start: float = 0.05
    settle: float = 0.3
    end: float = 0.4
    cost_power: float = 0.5
    costs: FloatArray | None = field(default=None, repr=False, compare=False)
    band: tuple[float, float] = (0.75, 1.33)
    min_channels: int = 2
    max_remove: float = 1.0
    round_to: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        steps: Any = self.steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < FEWEST_STEPS:
            raise PenaltyError(
                f"Budget(steps={steps!r}) was asked; it needs an integer, {FEWEST_STEPS} or more: "
                "the optimizer steps of the training."
            )
        if not 0 <= self.start <= self.settle < self.end <= 1:
            raise PenaltyError(
                f"Budget(start={self.start!r}, settle={self.settle!r}, end={self.end!r}) was "
                "asked; they are fractions of the steps, 0 <= start <= settle < end <= 1."
            )
        if not self.cost_power >= 0:  # NaN as well
            raise PenaltyError(f"Budget(cost_power={self.cost_power!r}) was asked; 0 or above.")
        least, most = self.band
        if not 0 <= least <= 1 <= most:
            raise PenaltyError(
                f"Budget(band={self.band!r}) was asked; 0 <= least <= 1 <= most is needed, such as "
                "(0.75, 1.33), or (0, inf) for no band."
            )
        given = {name: share for name, share in self.targets.items() if share is not None}
        if len(given) != 1:
            found = ", ".join(f"{name}={share!r}" for name, share in given.items()) or "none"
            raise TargetError(f"Budget needs one of {', '.join(self.targets)}; found {found}.")
        if not 0 <= (share := next(iter(given.values()))) <= 1:
            raise TargetError(f"{next(iter(given))}={share!r} was asked; it is a share, 0 to 1.")

    def __repr__(self) -> str:
        """What was asked for, without what was left as it is."""
        given = (
            f"{f.name}={v!r}"
            for f in fields(self)
            if f.repr and (v := getattr(self, f.name)) != f.default
        )
        return f"Budget({', '.join(given)})"

    @property
    def targets(self) -> dict[str, float | None]:
        """All that may be asked for, by name, with the number that was given or ``None``."""
        return {
            "keep_macs": self.keep_macs,
            "keep_params": self.keep_params,
            "remove_channels": self.remove_channels,
        }

    @property
    def starts_at(self) -> int:
        """The step after which channels are first chosen, counted from 0."""
        return round(self.start * self.steps)

    @property
    def settles_at(self) -> int:
        """The step after which they are chosen for good."""
        return round(self.settle * self.steps)

    @property
    def zero_at(self) -> int:
        """T: after how many steps everything that goes is exactly zero."""
        return max(round(self.end * self.steps), self.settles_at + 1)

    @property
    def on_shifts(self) -> bool:
        """A channel is zero only with its shifts."""
        return True

    def begin(self, graph: ChannelGraph, numbers: IntArray) -> Work:
        """Scores that run along, and the channels chosen so far.

        Raises:
            TargetError: the target cannot be reached; the text names what can.
            NothingToPruneError: no prunable channel holds a scale.
        """
        return Choosing(self, graph, numbers)

    @property
    def target(self) -> tuple[str, float]:
        """What is asked for: a name of :attr:`targets`, and the share that is to be kept."""
        name, share = next((n, s) for n, s in self.targets.items() if s is not None)
        return name, 1 - share if name == "remove_channels" else share

    def kept_after(self, step: int) -> float:
        """The share that the channels chosen after this step are to leave."""
        if step >= self.settles_at:
            return self.target[1]
        return self.target[1] ** ((step - self.starts_at) / (self.settles_at - self.starts_at))

    @property
    def limits(self) -> Limits:
        """What every group keeps in any case."""
        return Limits(self.round_to, self.min_channels, self.max_remove)

    def weights(self, graph: ChannelGraph) -> FloatArray:
        """``cost^p`` of each channel, of the cost that the target is about unless others are given.

        Raises:
            PenaltyError: the costs that were given are not one number per channel, 0 or above.
        """
        if self.costs is None:
            if self.remove_channels is not None:
                return np.ones(graph.num_channels)
            kind: CostKind = "params" if self.keep_params is not None else "macs"
            costs = channel_costs(graph, kind)
            return np.maximum(costs / max(costs.max(), 1.0), 1e-12) ** self.cost_power
        costs = np.asarray(self.costs, dtype=np.float64)
        if costs.shape != (graph.num_channels,) or not (costs >= 0).all():  # NaN as well
            raise PenaltyError(
                f"Budget(costs=...) was given an array of shape {costs.shape}; one number of 0 or "
                f"above is needed for each of this graph's {graph.num_channels} channels, as from "
                "gs.channel_latencies(model, graph)."
            )
        if not (known := costs[costs > 0]).size:
            return np.ones(len(costs))
        # What was too short to be measured takes the least time that was.
        return (np.maximum(costs, known.min()) / known.max()) ** self.cost_power


# A budget of 1,000 steps with start=0.05, settle=0.3 and end=0.4. Steps 0 to 49: the effect of each
# channel is observed, nothing else. From step 50 on, at every tenth, the channels that leave
# keep^((t - 50) / 250) of the cost are chosen, and after every step values of the chosen are
# multiplied by (399 - t) / (400 - t): one chosen at step 100 has 2/3 of its values left at 200, and
# if it is dropped from the choice then, it goes on from there. At step 300 the choice is final, and
# nothing is observed any more. The factor of step 399 is 0, and so are all that follow: what an
# optimizer with momentum moves away from zero is zero again after the same step.
class Choosing(Work):
    """What a :class:`Budget` knows while training.

    ``scores`` ``[C]``: the running mean per channel of the flat vector.  ``chosen`` ``[C]``: 1 for
    those that shrink at present, else 0.  Everything else follows from the step.
    """

    def __init__(self, budget: Budget, graph: ChannelGraph, numbers: IntArray) -> None:
        """Begin before the first step; use :meth:`Budget.begin`."""
        self._budget = budget
        self._graph, self._numbers, self._real = graph, numbers, numbers >= 0
        self._weights = budget.weights(graph)[numbers]
        self._every = max(round(EVERY * budget.steps), 1)
        self._fresh = min(1.0, 1 / (LOOKS_BACK * budget.steps))
        self.scores = torch.zeros(len(numbers), dtype=torch.float32)
        self.chosen = torch.zeros(len(numbers), dtype=torch.float32)
        self._effect: Tensor | None = None
        # What cannot be met at the end is refused now.
        self._kept(np.zeros(graph.num_channels), budget.target[1])

    def observe(self, moment: Moment, gradients: Callable[[], Tensor]) -> None:
        """Until the choice is final, add ``Σ γ ∂L/∂γ`` up, per channel."""
        if moment.step <= self._budget.settles_at:
            scales = moment.scales()
            effect = scales.per_channel(scales.values * gradients())
            self._effect = effect if self._effect is None else self._effect + effect

    def advance(self, step: int) -> None:
        """Take in what was observed, and choose anew if it is time to."""
        first, last = self._budget.starts_at, self._budget.settles_at
        if step > last:
            return
        if self._effect is not None:
            # Gradients that overflowed say nothing; the optimizer skips such a step as well.
            seen = self._effect.square_().nan_to_num_(0.0, 0.0, 0.0).to(self.scores.dtype)
            self.scores = self.scores.to(seen.device).lerp_(seen, self._fresh)
            self._effect = None
        if step == last or (step >= first and step % self._every == 0):
            scores = np.zeros(self._graph.num_channels)
            weighed = self.scores.double().cpu().numpy() / self._weights
            scores[self._numbers[self._real]] = weighed[self._real]
            keep = self._kept(scores, self._budget.kept_after(step))
            chosen = torch.from_numpy(self._real & ~keep[self._numbers])
            self.chosen = chosen.float().to(self.scores.device)

    def _kept(self, scores: FloatArray, share: float) -> BoolArray:
        budget, target = self._budget, (self._budget.target[0], share)
        try:
            return banded(self._graph, scores, target, budget.band, budget.limits)
        except TargetError as error:
            raise TargetError(f"{budget!r} cannot be met: {error}") from error

    def factors(self, moment: Moment) -> Tensor | None:
        """``(T − t) / (T − t + 1)`` where chosen and 1 elsewhere; nothing before ``start``."""
        if moment.step < self._budget.starts_at:
            return None
        channels = moment.channels()
        left = max(self._budget.zero_at - 1 - moment.step, 0)
        self.chosen = self.chosen.to(channels.device)
        return torch.rsub(self.chosen.index_select(0, channels), 1.0, alpha=1 / (left + 1))

    def plan(self) -> Plan:
        """The plan that removes what has been chosen."""
        keep = np.ones(self._graph.num_channels, dtype=np.bool_)
        keep[self._numbers[self.chosen.bool().cpu().numpy()]] = False
        cut = Cut(self._graph, keep).settled
        cut.check()
        return cut.plan

    def follow(self, graph: ChannelGraph, numbers: IntArray, places: IntArray) -> None:
        """Keep the scores and the choice of what is left."""
        left = torch.from_numpy(places).to(self.scores.device)
        self.scores = self.scores[left]
        self.chosen = self.chosen.to(left.device)[left]
        self._graph, self._numbers, self._real = graph, numbers, numbers >= 0
        self._weights, self._effect = self._weights[places], None

    def state_dict(self) -> dict[str, Any]:
        """Scores and choice."""
        return {"scores": self.scores.cpu().clone(), "chosen": self.chosen.bool().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved scores and a saved choice.

        Raises:
            PenaltyError: the state is not one of this network's channels.
        """
        for name in ("scores", "chosen"):
            value: Any = state.get(name)
            if not isinstance(value, Tensor) or value.shape != self.scores.shape:
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise PenaltyError(
                    f"The state of a budget for {len(self._numbers)} channels was expected; its "
                    f"{name!r} is {found}. Load the state saved with this network and graph."
                )
        self.scores = state["scores"].to(self.scores.dtype).clone()
        self.chosen = state["chosen"].float().clone()
