"""Folds what removed channels contributed into the layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gammaslim.arrays import IntArray
from gammaslim.cutting.contributions import Reading
from gammaslim.cutting.undoing import Undo
from gammaslim.network import first_paths


@dataclass(frozen=True)
class Folded:
    """What was folded: how many inputs of how many layers, and where a bias had to be added.

    ``skipped``: layers that read removed channels in a way that cannot be folded.  ``biases``: the
    weight and the new bias of each layer in ``added``.
    """

    inputs: int = 0
    layers: int = 0
    added: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    biases: tuple[tuple[Tensor, Tensor], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        """One clause for a report."""
        if not self.inputs:
            return "nothing to fold"
        added = f", a bias added to {', '.join(self.added)}" if self.added else ""
        return f"{self.inputs} inputs of {self.layers} layers folded{added}"


def fold(
    readings: Iterable[Reading],
    *,
    constants_only: bool,
    keep: Mapping[nn.Module, IntArray],
    weights: Mapping[nn.Module, Tensor],
    undo: Undo,
    skipped: Sequence[str] = (),
) -> Folded:
    """Add what the removed inputs contributed to every layer that read them.

    ``out += Σ_c Σ_k W[:, c, k] · mean_c``, exact in the interior of an image: at its border, where
    zeros are padded, a removed constant contributed less.  It goes into the layer's bias, or is
    taken off the running mean of the BatchNorm that alone reads the layer, or into a bias that is
    added.

    Args:
        readings: from :func:`observe`, before the cut.
        constants_only: leave inputs alone that vary.
        keep: per layer, the output indices that the cut has left, in its order.
        weights: per layer, its weight before the cut.
        undo: learns how to take each change back.
        skipped: what could not be read, for the record.
    """
    inputs, layers, added = 0, 0, dict[str, Any]()
    for reading in readings:
        means = reading.means(constants_only=constants_only)
        if not means.any():
            continue
        shift = _contribution(reading, means, weights[reading.module])
        shift = shift[torch.from_numpy(keep[reading.module])]
        if _absorb(reading, shift, undo):
            added[reading.path] = reading.module
        inputs += int(means.count_nonzero())
        layers += 1
    return Folded(
        inputs,
        layers,
        tuple(added),
        tuple(skipped),
        tuple((module.weight, module.bias) for module in added.values()),
    )


# A 3x3 convolution reads a channel that is 0.5 at every place. Away from the border each output
# gets 0.5 times the sum of its nine weights for that channel, whatever the image: that is folded.
# At the border of a padded image some taps meet zeros instead, so the output there was smaller;
# what remains of the difference is reported as `Outcome.change`.
def _contribution(reading: Reading, means: Tensor, weight: Tensor) -> Tensor:
    """What constant inputs give each output of the uncut layer, ``[outputs]``, float64."""
    module = reading.module
    weight = weight.detach().double().cpu()
    if isinstance(module, nn.Linear):
        return weight[:, torch.from_numpy(reading.columns)] @ means
    groups: Any = module.groups
    taps = weight.flatten(2).sum(dim=2)  # [outputs, inputs per group]
    whole = torch.zeros(taps.shape[1] * groups, dtype=torch.float64)
    whole[torch.from_numpy(reading.columns)] = means
    per_group = whole.reshape(groups, -1).repeat_interleave(taps.shape[0] // groups, dim=0)
    return (taps * per_group).sum(dim=1)


def _absorb(reading: Reading, shift: Tensor, undo: Undo) -> bool:
    """Add the shift to what the layer gives; whether a bias had to be added for it."""
    module, norm = reading.module, reading.norm
    bias: Any = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        _change(bias, shift, undo)
        return False
    mean = getattr(norm, "running_mean", None)
    if isinstance(mean, Tensor):
        _change(mean, -shift, undo)
        return False
    undo.steps.append(add_bias(module, shift))
    return True


ADDED_BIAS = "_gammaslim_bias"
"""Where a layer remembers that its bias is not of its own making."""


def add_bias(module: nn.Module, values: Tensor | None = None) -> Callable[[], None]:
    """Give a layer without a bias one, zero unless told; what takes it off again."""
    weight: Any = module.weight
    # Only layers whose weight counts outputs first are ever folded into.
    zeros: Tensor = weight.detach().new_zeros(weight.shape[0])
    start = zeros if values is None else values.to(zeros)
    module.bias = nn.Parameter(start, requires_grad=weight.requires_grad)
    module.__dict__[ADDED_BIAS] = True

    def drop() -> None:
        module.register_parameter("bias", None)
        module.__dict__.pop(ADDED_BIAS, None)

    return drop


def biases_added(model: nn.Module) -> list[str]:
    """The paths of all layers that were given a bias."""
    return [path for module, path in first_paths(model).items() if ADDED_BIAS in module.__dict__]


def _change(tensor: Tensor, amount: Tensor, undo: Undo) -> None:
    before = tensor.detach().clone()

    def restore() -> None:
        tensor.data.copy_(before)

    undo.steps.append(restore)
    tensor.data.copy_(tensor.detach().double() + amount.to(tensor.device))
