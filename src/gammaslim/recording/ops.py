"""One operator call, as the rules see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

    def __getitem__(self, name: str) -> Any:
        """The argument ``name``."""
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument ``name``, or ``default`` where this overload has none."""
        return self.arguments.get(name, default)

    @property
    def name(self) -> str:
        """The operator's name, such as ``aten.convolution``."""
        return ".".join(self.func.name().split(".")[0].split("::"))

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.outputs[0]


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors among ``values``, lists and tuples flattened."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
