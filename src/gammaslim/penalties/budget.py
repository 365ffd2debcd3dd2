"""A budget instead of a strength: what is to remain, and in how many steps."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, final

from gammaslim.arrays import FloatArray
from gammaslim.errors import PenaltyError, TargetError

FEWEST_STEPS = 10
"""Below this there is no time to look, to choose and to shrink."""


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Budget:
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
    def target(self) -> tuple[str, float]:
        """What is asked for: a name of :attr:`targets`, and the share that is to be kept."""
        name, share = next((n, s) for n, s in self.targets.items() if s is not None)
        return name, 1 - share if name == "remove_channels" else share

    def kept_after(self, step: int) -> float:
        """The share that the channels chosen after this step are to leave."""
        if step >= self.settles_at:
            return self.target[1]
        return self.target[1] ** ((step - self.starts_at) / (self.settles_at - self.starts_at))
