"""The index in front of a BatchNorm: which channels of what it is given it reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch

from gammaslim.arrays import IntArray
from gammaslim.network.modules import INPUT_INDEX


def read_selected(self: nn.Module, input: tuple[Tensor]) -> tuple[Tensor]:  # noqa: A002
    """The forward pre-hook: hand on only the channels that are read, ``x[:, index]``.

    TorchScript compiles it too, and asks for just these names and types.
    """
    return (input[0].index_select(1, self._gammaslim_inputs),)  # pyright: ignore[reportArgumentType]


def select_inputs(module: nn.Module, places: IntArray) -> Callable[[], None]:
    """Let a module read these indices of dimension 1 of its input; what takes it back.

    The index is a buffer, so that it moves with the module, but no part of the state dict.
    """
    before = module._buffers.get(INPUT_INDEX)  # noqa: SLF001
    weight = next(module.parameters(recurse=False), None)
    # On the meta device an index would hold nothing, and loading does not bring it back.
    known = weight is not None and not weight.is_meta
    index = torch.from_numpy(places).to(weight.device if known and weight is not None else "cpu")
    handle = None
    if before is None:
        module.register_buffer(INPUT_INDEX, index, persistent=False)
        handle = module.register_forward_pre_hook(read_selected)
    else:
        module._buffers[INPUT_INDEX] = index  # noqa: SLF001

    def undo() -> None:
        if handle is None:
            module._buffers[INPUT_INDEX] = before  # noqa: SLF001
            return
        handle.remove()
        del module._buffers[INPUT_INDEX]  # noqa: SLF001
        module._non_persistent_buffers_set.discard(INPUT_INDEX)  # noqa: SLF001

    return undo


def selected_places(module: nn.Module | None, index: Tensor) -> IntArray | None:
    """Which indices a running module's own index takes; ``None`` for any other tensor."""
    if module is None or module._buffers.get(INPUT_INDEX) is not index:  # noqa: SLF001
        return None
    with no_dispatch():
        return np.array(index.tolist(), dtype=np.int64)
