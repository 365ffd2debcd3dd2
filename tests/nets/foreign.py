"""Code that PyTorch sees little of: spectra, NumPy, operators of one's own, TorchScript."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.nets.case import Case, around, between, cbr, image
from tests.nets.operators import TAIL


class Fourier(nn.Module):
    """Convolution, BatchNorm and ReLU on real and imaginary parts side by side (FFC)."""

    def __init__(self, channels: int) -> None:
        """A block on twice as many channels."""
        super().__init__()
        self.block = cbr(2 * channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """There and back again."""
        spectrum = torch.fft.rfft2(x, norm="ortho")
        mixed = self.block(torch.cat([spectrum.real, spectrum.imag], 1))
        real, imaginary = mixed.chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")


class InNumpy(torch.autograd.Function):
    """The cube, by NumPy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Leave PyTorch and come back."""
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """3 x²."""
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


@torch.library.custom_op("gammaslim_nets::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    """Half of it, in an operator that has neither a fake implementation nor a rule."""
    return x / 2


halved.register_autograd(lambda _, gradient: gradient / 2)


class OwnOperator(nn.Module):
    """Calls :func:`halved`."""

    def forward(self, x: Tensor) -> Tensor:
        """Half of it."""
        return halved(x)


class Stored(nn.Module):
    """A weight that is made anew in every forward and put into ``.data``."""

    def __init__(self) -> None:
        """A convolution and what its weight is made of."""
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)
        self.raw = nn.Parameter(self.conv.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Set the weight, then use it."""
        self.conv.weight.data = self.raw.data.tanh()
        return self.conv(x)


FOREIGN: tuple[Case, ...] = (
    Case("fourier", lambda: around(Fourier(16)), image, 1.0, "fast Fourier convolution",
         zero=False),
    Case("numpy", lambda: between(InNumpy.apply), image, TAIL, "autograd function in NumPy"),
    Case("own_operator", lambda: around(OwnOperator()), image, TAIL, "custom operator"),
    Case("data_setter", lambda: around(Stored()), image, TAIL, "a weight's data is replaced",
         refusable=True),
    Case("checkpoint", lambda: between(
        lambda x: torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=False)), image,
        1.0, "gradient checkpointing"),
)  # fmt: skip
