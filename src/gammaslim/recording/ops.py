"""One operator call, as PyTorch made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Op:
    """One ATen call: its overload, its arguments by name, its outputs and all tensor arguments."""

    func: Any
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    inputs: list[Tensor]

    @property
    def name(self) -> str:
        """The operator's name, such as ``aten.convolution``."""
        return ".".join(self.func.name().split(".")[0].split("::"))


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """All tensors among ``values``, lists and tuples flattened."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _SEQUENCES):
            found += tensors_in(value)
    return found


_SEQUENCES = (list, tuple)  # made once: this is asked of every argument of every operator
