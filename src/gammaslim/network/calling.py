"""How example inputs reach a network, and how tensors are found in what it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def call_arguments(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for ``model``.

    A tuple becomes the positional arguments.  A dict becomes keyword arguments if ``forward``
    accepts its keys, else the one positional argument; anything else is the one argument.
    """
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
        try:
            inspect.signature(model.forward).bind(**example)
        except TypeError:
            return (example,), {}
        return (), dict(example)
    return (example,), {}


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in its tuples, lists and dicts replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    return value


def copied(tensor: Tensor) -> Tensor:
    """A copy without history."""
    return tensor.detach().clone()


def doubled(tensor: Tensor) -> Tensor:
    """A batch laid down twice: BatchNorm refuses a single value per channel in training."""
    return torch.cat([tensor, tensor]) if tensor.ndim else tensor


def output_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in what a network returned: nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from output_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from output_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from output_tensors(getattr(value, item.name))


def describe(value: Any) -> str:
    """What was passed, for an error message: shapes and types, never values."""
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items())
        return "{" + inner + "}"
    if isinstance(value, tuple | list):
        inner = ", ".join(describe(item) for item in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    return type(value).__name__
