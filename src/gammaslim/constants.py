"""What takes the place of a layer that has left: a constant, in the shape that the layer gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gammaslim.errors import VerificationError
from gammaslim.flow import Remnant, keeps_sizes, spatial_sizes
from gammaslim.undoing import Undo

UNIFORM = 1e-5
"""How much a constant may vary over images and places, relative to its largest magnitude."""


class Constant(nn.Module):
    """``y[n, c, ...] = value[c]``, with the sizes that the layer would have given.

    ``value`` ``[width]`` is a buffer; a constant of which only the shape matters has none, and is
    zero.
    """

    value: Tensor | None

    def __init__(self, remnant: Remnant, like: Tensor) -> None:
        """A constant zero, of the type and on the device of ``like``."""
        super().__init__()
        self.remnant = remnant
        zeros = like.detach().new_zeros(remnant.width) if remnant.told else None
        self.register_buffer("value", zeros)

    def forward(self, inputs: Tensor) -> Tensor:
        """Sizes come from the input, and nothing else does."""
        remnant, sizes = self.remnant, list(inputs.shape)
        if self.value is None and keeps_sizes(remnant):
            return inputs  # who comes next looks at its sizes alone
        if remnant.window is not None:
            sizes[2:] = spatial_sizes(sizes[2:], remnant.window)
        if self.value is None:
            return inputs.new_zeros(1).expand(sizes)
        shape = [1] * inputs.ndim
        shape[remnant.dim] = sizes[remnant.dim] = -1  # later cuts make the value shorter
        constant = self.value.reshape(shape).expand(sizes)
        return constant.clone() if remnant.written else constant

    def reset_parameters(self) -> None:
        """Zero, as for a network that is to be trained anew."""
        if self.value is not None:
            self.value.zero_()

    def extra_repr(self) -> str:
        """What it stands in for, in short."""
        return f"width={self.remnant.width if self.value is None else len(self.value)}"


def replace_layer(model: nn.Module, path: str, remnant: Remnant) -> Callable[[], None]:
    """Put a constant in the place of a layer; what puts the layer back."""
    parent_path, _, name = path.rpartition(".")
    parent, layer = model.get_submodule(parent_path), model.get_submodule(path)
    constant = Constant(remnant, next(layer.parameters(recurse=False)))
    constant.training = layer.training
    parent._modules[name] = constant  # noqa: SLF001 -- setattr would refuse a name such as "0"

    def undo() -> None:
        parent._modules[name] = layer  # noqa: SLF001

    return undo


def set_value(model: nn.Module, path: str, value: Tensor, undo: Undo) -> None:
    """Give the constant in a layer's place its value ``[width]``; ``undo`` learns of it."""
    constant = model.get_submodule(path)
    assert isinstance(constant, Constant)  # noqa: S101 -- the plan has put it there
    held = constant.value
    assert held is not None  # noqa: S101 -- somebody reads it
    undo.steps.append(partial(held.copy_, held.clone()))
    held.copy_(value)


def uniform_value(path: str, outputs: Sequence[Tensor], dim: int) -> Tensor:
    """The value per channel of what a layer of the masked network gives at its calls, ``[width]``.

    Raises:
        VerificationError: it is not the same for all images and at all places.
    """
    rows = torch.cat([output.detach().movedim(dim, 0).flatten(1) for output in outputs], dim=1)
    value = rows[:, 0].clone()
    spread = (rows - value[:, None]).abs().amax() if rows.numel() else rows.new_zeros(())
    if not spread <= UNIFORM * rows.abs().amax():
        raise VerificationError(
            f"{path!r} was to leave the network, but without the channels that go it still gives "
            "something else at every place. The network has been restored. Keep that layer with "
            "ignore=, or ask for min_channels=1, and please report it."
        )
    return value
