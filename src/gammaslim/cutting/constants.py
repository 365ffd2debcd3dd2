"""What takes the place of a layer that has left: a constant, in the shape that the layer gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gammaslim.channels import Remnant, keeps_sizes
from gammaslim.cutting.undoing import Undo
from gammaslim.errors import VerificationError

UNIFORM = 1e-5
"""How much a constant may vary over images and places, relative to its largest magnitude."""


def sizes_after(inputs: Tensor, windows: list[tuple[int, int, int, int]]) -> list[int]:
    """What a layer makes of its input's sizes: ``⌊(n + padding - extent) / stride⌋ + 1``.

    Each of ``windows`` is a dimension, the extent of the kernel in it, the stride, all padding.
    """
    sizes = list(inputs.shape)
    for dim, extent, stride, padding in windows:
        sizes[dim] = (sizes[dim] + padding - extent) // stride + 1
    return sizes


@torch.fx.wrap
def filled(
    inputs: Tensor, value: Tensor, dim: int, windows: list[tuple[int, int, int, int]]
) -> Tensor:
    """``value`` at every place; for ``torch.fx`` one call, as it cannot follow sizes."""
    shape, sizes = [1 for _ in inputs.shape], sizes_after(inputs, windows)
    shape[dim] = sizes[dim] = -1  # as many as there are: later cuts make the value shorter
    return value.reshape(shape).expand(sizes)


@torch.fx.wrap
def zeros(inputs: Tensor, windows: list[tuple[int, int, int, int]]) -> Tensor:
    """Zeros of the right sizes but for the channels, of which there are as many as before."""
    none = torch.zeros([1], dtype=inputs.dtype, device=inputs.device)
    return none.expand(sizes_after(inputs, windows))


def _windows(remnant: Remnant) -> list[tuple[int, int, int, int]]:
    """Per dimension that changes, what changes it; the batch, which does not, comes first.

    TorchScript, which compiles all this, could not tell what an empty list is a list of.
    """
    return [(0, 1, 1, 0), *((2 + n, *each) for n, each in enumerate(remnant.window or ()))]


class Constant(nn.Module):
    """``y[n, c, ...] = value[c]``, with the sizes that the layer would have given.

    ``value`` ``[width]`` is a buffer.
    """

    def __init__(self, remnant: Remnant, like: Tensor) -> None:
        """A constant zero, of the type and on the device of ``like``."""
        super().__init__()
        self.dim, self.windows, self.copies = remnant.dim, _windows(remnant), remnant.written
        self.value = nn.Buffer(like.detach().new_zeros(remnant.width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Sizes come from the input, and nothing else does."""
        constant = filled(inputs, self.value, self.dim, self.windows)
        return constant.clone() if self.copies else constant

    def reset_parameters(self) -> None:
        """Zero, as for a network that is to be trained anew."""
        self.value.zero_()

    def extra_repr(self) -> str:
        """What it stands in for, in short."""
        return f"width={len(self.value)}"


class Placeholder(nn.Module):
    """Something in the sizes that the layer would have given: whoever comes next reads no more."""

    def __init__(self, remnant: Remnant) -> None:
        """Without any state."""
        super().__init__()
        self.passes, self.windows = keeps_sizes(remnant), _windows(remnant)

    def forward(self, inputs: Tensor) -> Tensor:
        """What came in, where its sizes are right."""
        return inputs if self.passes else zeros(inputs, self.windows)


def replace_layer(model: nn.Module, path: str, remnant: Remnant) -> Callable[[], None]:
    """Put what is left of it in the place of a layer; what puts the layer back."""
    parent_path, _, name = path.rpartition(".")
    parent, layer = model.get_submodule(parent_path), model.get_submodule(path)
    like = next(layer.parameters(recurse=False))
    stand_in = Constant(remnant, like) if remnant.told else Placeholder(remnant)
    stand_in.training = layer.training
    parent._modules[name] = stand_in  # noqa: SLF001 -- setattr would refuse a name such as "0"

    def undo() -> None:
        parent._modules[name] = layer  # noqa: SLF001

    return undo


def set_value(model: nn.Module, path: str, value: Tensor, undo: Undo) -> None:
    """Give the constant in a layer's place its value ``[width]``; ``undo`` learns of it."""
    constant = model.get_submodule(path)
    assert isinstance(constant, Constant)  # noqa: S101 -- the plan has put it there
    undo.steps.append(partial(constant.value.copy_, constant.value.clone()))
    constant.value.copy_(value)


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
