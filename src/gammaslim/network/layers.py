"""Layers whose computation is known from their class: what they do to sizes, and to values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gammaslim.arrays import Windows
from gammaslim.network.modules import INPUT_INDEX, NORM_BASE, every_module

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KEEP_SIZES: dict[type[nn.Module], int] = {nn.PReLU: 1, nn.GroupNorm: 1, nn.LayerNorm: -1}
"""Exact classes that give what they are given in size, and the dimension of their channels."""


def is_plain(module: nn.Module) -> bool:
    """Whether what the layer computes is its weight applied to its input, and nothing else."""
    if "parametrizations" in module._modules or _is_patched(module):  # noqa: SLF001 -- much faster
        return False
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    for kind in _CONVOLUTIONS:
        if isinstance(module, kind):
            methods = ("forward", "_conv_forward")
            return all(getattr(type(module), m) is getattr(kind, m) for m in methods)
    return False


def _is_patched(module: nn.Module) -> bool:
    """Whether this one instance was given methods of its own."""
    return not {"forward", "_conv_forward"}.isdisjoint(module.__dict__)


def channel_dim(module: nn.Module) -> int | None:
    """The dimension of the channels in what a layer gives for a batch; ``None``: unknown."""
    if _is_patched(module):
        return None
    if is_plain(module):
        return -1 if isinstance(module, nn.Linear) else 1
    if isinstance(module, NORM_BASE):
        return 1
    return _KEEP_SIZES.get(type(module))


def window_of(module: nn.Module) -> Windows | None:
    """What a plain convolution does to spatial sizes; ``None`` for layers that keep them."""
    if not isinstance(module, _CONVOLUTIONS):
        return None
    extents = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    padding: Any = module.padding
    if padding == "same":
        padded = [extent - 1 for extent in extents]
    else:
        padded = [0] * len(extents) if padding == "valid" else [2 * p for p in padding]
    return tuple(zip(extents, module.stride, padded, strict=True))


def constant_dim(module: nn.Module) -> int | None:
    """The dimension of the channels, if a constant can take the layer's place.

    That is, if it is known, and nothing else lives in it.
    """
    if not holds_tensors(module._parameters) or is_heard(module):  # noqa: SLF001 -- much faster
        return None
    if module._modules:  # noqa: SLF001
        for inner in every_module(module):
            own = (inner._parameters, inner._buffers)  # noqa: SLF001
            if inner is not module and any(map(holds_tensors, own)):
                return None
    return channel_dim(module)


def holds_tensors(tensors: Mapping[str, Tensor | None]) -> bool:
    """Whether any of a module's parameters or buffers is not ``None``."""
    return bool(tensors) and any(tensor is not None for tensor in tensors.values())


def is_heard(module: nn.Module) -> bool:
    """Whether somebody else has registered hooks on the module, and waits for it to run."""
    own = INPUT_INDEX in module._buffers  # noqa: SLF001 -- the index in front of it is a hook
    return len(module._forward_pre_hooks) > own or any(  # noqa: SLF001
        (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)  # noqa: SLF001
    )


def is_batch(ndim: int, module: nn.Module) -> bool:
    """Whether what a layer gives has a batch dimension."""
    return not isinstance(module, _CONVOLUTIONS) or ndim == len(module.kernel_size) + 2
