"""The flat vector of all penalised scales, which penalties are functions of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scales:
    """All scales (and, if asked for, shifts) of all penalised layers, one after the other.

    Where a network is sharded over processes, these are the values of one of them; sums over a
    channel or over the network are then made over all processes, by :meth:`per_channel` and
    :meth:`mean` alone.

    Args:
        values: ``[n]``, at least in single precision; not to be changed.
        channels: ``[n]`` int64 in ``0..num_channels-1``, the channel of each value.
        num_channels: how many channels those are.
        strengths: λ, or ``[n]`` that of each value: 0 at those that may not go.  While attached it
            is what differs between values, and what they have in common is multiplied on later.
        rates: the learning rate η, or ``[n]`` that of each value where they differ; while attached
            times what the λ of all values have in common.
        penalised: ``[n]``, 0 at values that may not go and 1 elsewhere; ``None`` if all are 1.
        counted: ``[n]``, 0 at values that another process counts; ``None`` if none are.
        combine: sums a tensor over processes, in place; ``None`` if there is one.
        total: how many penalised values the whole network has; 0 if all of ``values``.
        sizes: ``[num_channels]``, how many values each channel has; counted if ``None``.
        sorting: the order ``[n]`` that sorts values by channel, and ``[num_channels + 1]`` where
            each channel then starts and the last ends; without it sums vary on a GPU.
    """

    values: Tensor
    channels: Tensor
    num_channels: int
    strengths: Tensor | float
    rates: Tensor | float = 0.0
    penalised: Tensor | None = None
    counted: Tensor | None = None
    combine: Callable[[Tensor], Tensor] | None = None
    total: int = 0
    sizes: Tensor | None = None
    sorting: tuple[Tensor, Tensor] | None = None

    def per_channel(self, amounts: Tensor) -> Tensor:
        """``[n]`` to ``[num_channels]``: the sum over the values of each channel."""
        if self.counted is not None:
            amounts = amounts * self.counted
        if self.sorting is None or not len(amounts):
            sums = amounts.new_zeros(self.num_channels).scatter_add_(0, self.channels, amounts)
        else:
            # scatter_add_ adds in any order on a GPU: processes with equal scales would drift apart
            # by rounding errors, and a budget might choose other channels on each of them.
            order, starts = self.sorting
            ordered = amounts.index_select(0, order)
            sums = torch.segment_reduce(ordered, "sum", offsets=starts, unsafe=True)
        return sums if self.combine is None else self.combine(sums)

    def spread(self, sums: Tensor) -> Tensor:
        """``[num_channels]`` to ``[n]``: to every value what belongs to its channel."""
        return sums.index_select(0, self.channels)

    def norms(self) -> Tensor:
        """``‖v_c‖₂`` of the values of each channel, ``[num_channels]``."""
        return self.per_channel(self.values * self.values).sqrt_()

    def means(self, amounts: Tensor) -> Tensor:
        """``[n]`` to ``[num_channels]``: the mean over the values of each channel."""
        sizes = self.sizes
        if sizes is None:
            sizes = self.per_channel(amounts.new_ones(()).expand_as(amounts))
        return self.per_channel(amounts).div_(sizes)

    def mean(self, amounts: Tensor) -> Tensor:
        """The mean over all penalised values of the network: a number, in double precision."""
        # In double precision the sum does not depend on how the values are spread over processes.
        exact = amounts.dtype if amounts.device.type == "mps" else torch.float64
        if self.penalised is None and self.counted is None and self.combine is None:
            return amounts.mean(dtype=exact)
        for factor in (self.penalised, self.counted):
            if factor is not None:
                amounts = amounts * factor
        total = amounts.sum(dtype=exact)
        if self.combine is not None:
            total = self.combine(total)
        return total / (self.total or self.values.numel())
