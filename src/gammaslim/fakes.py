"""Fake tensors: shapes, strides and types without memory, made and remembered cheaply."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch


def fake_copy(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """``tensor`` without its memory: shape, strides, type and device only."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return mode.from_tensor(tensor)
    shape, strides, dtype = tensor.shape, tensor.stride(), tensor.dtype
    empty = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    return FakeTensor(mode, empty, tensor.device)


@contextlib.contextmanager
def quiet_fake_tensors() -> Generator[None]:
    """Keep torch from logging a stack trace for every failed try: the error itself is enough."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


MOST_REMEMBERED = 50_000
"""Operators remembered before all are forgotten: some ten megabytes."""


class FakeMemo:
    """Remembers the shape of what an operator returned, in front of the much slower fake kernels.

    Networks repeat themselves, run in two modes and are traced again after a cut; an operator on
    fake tensors depends on nothing but shapes, strides, types and plain arguments.  So there is one
    memory for all networks, as PyTorch's own fake kernels have one.  Views and in-place operators
    always run.
    """

    _seen: ClassVar[dict[Any, Any]] = {}

    def __init__(self, mode: FakeTensorMode) -> None:
        """For tensors of this fake mode."""
        self._mode = mode
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.clear()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the operator, made up from memory where it is known."""
        if func.is_view or func._schema.is_mutable or not func._schema.returns:  # noqa: SLF001
            in_place = torch.Tag.pointwise in func.tags and func.overloadpacket.__name__[-1] == "_"
            return args[0] if in_place else func(*args, **kwargs)  # it keeps its shape
        try:
            plain = _signature(tuple(kwargs.items()))
            key = (func, _signature(args), plain, torch.get_default_dtype())
            known = self._seen.get(key)
        except (TypeError, _UnhashableError):
            return func(*args, **kwargs)
        if known is not None:
            return self._revived(known)
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple) else (result,)
        if all(type(out) is FakeTensor and out.constant is None for out in outputs):
            layouts = [(o.shape, o.stride(), o.dtype, o.fake_device) for o in outputs]
            self._seen[key] = (isinstance(result, tuple), layouts)
        return result

    def _revived(self, known: tuple[bool, list[Any]]) -> Any:
        several, layouts = known
        with no_dispatch():
            outputs = tuple(
                FakeTensor(
                    self._mode,
                    torch.empty_strided(shape, stride, dtype=dtype, device="meta"),
                    device,
                )
                for shape, stride, dtype, device in layouts
            )
        return outputs if several else outputs[0]


class _UnhashableError(Exception):
    """An argument is something that only the fake kernel itself understands."""


def _signature(values: Any) -> tuple[Any, ...]:
    """What the result of an operator on fake tensors can depend on."""
    found: list[Any] = []
    for value in values:
        if type(value) is FakeTensor:
            if value.constant is not None:
                raise _UnhashableError
            found.append((value.shape, value.stride(), value.dtype, value.fake_device))
        elif isinstance(value, Tensor):
            raise _UnhashableError
        elif isinstance(value, list | tuple):
            found.append(_signature(value))
        else:
            found.append((type(value), value))
    return tuple(found)
