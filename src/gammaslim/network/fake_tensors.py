"""Fake tensors: shapes, strides and types without memory, made and remembered cheaply."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from gammaslim.network.process import PROCESS


def fake_copy(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """``tensor`` without its memory: shape, strides, type and device only."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_conj() or tensor.is_neg():
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


@contextlib.contextmanager
def paused_collector() -> Generator[None]:
    """Keep Python from looking for cycles meanwhile: every search walks all that a process holds.

    For runs on fake tensors only, whose garbage holds no memory to speak of.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


MOST_REMEMBERED = 50_000
"""Operators remembered before all are forgotten: some ten megabytes."""


class FakeMemo:
    """Remembers the shape of what an operator returned, in front of the much slower fake kernels.

    Networks repeat themselves, run in two modes and are traced again after a cut; an operator on
    fake tensors depends on nothing but shapes, strides, types and plain arguments.  So there is one
    memory for the whole process, as PyTorch's own fake kernels have one.  Views share the memory of
    their base; operators that write, and those that are not PyTorch's own, always run.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        """For tensors of this fake mode."""
        self._mode = mode
        self._seen = PROCESS.fake_results
        self._attributes: dict[torch.device, dict[str, Any]] = {}
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.clear()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the operator, made up from memory where it is known."""
        if func is _DEVICE_OF and type(args[0]) is FakeTensor:
            return args[0].fake_device
        if func.namespace != "aten" or func._schema.is_mutable:  # noqa: SLF001
            in_place = torch.Tag.pointwise in func.tags and func.overloadpacket.__name__[-1] == "_"
            return args[0] if in_place else func(*args, **kwargs)  # it keeps its shape
        try:
            plain = _signature(tuple(kwargs.items()))
            key = (func, _signature(args), plain, torch.get_default_dtype())
            known = self._seen.get(key)
        except (TypeError, _UnhashableError):
            return func(*args, **kwargs)
        if known is not None:
            base = args[0] if func.is_view else None
            with no_dispatch():
                outputs = [self._made(layout, base) for layout in known.layouts]
            return outputs[0] if known.kind is None else known.kind(outputs)
        result = func(*args, **kwargs)
        if (remembered := _remembered(result, args[0] if func.is_view else None)) is not None:
            self._seen[key] = remembered
        return result

    def _made(self, layout: _Layout, base: Any) -> FakeTensor:
        """``FakeTensor(mode, tensor, device)``; all but a device's first take its attributes."""
        shape, stride, offset, dtype, device = layout
        if base is None:
            made = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        else:
            made = torch.as_strided(base, shape, stride, base.storage_offset() + offset)
        if device not in self._attributes:
            first = FakeTensor(self._mode, made, device)
            self._attributes[device] = dict(vars(first))
            return first
        wrapped = FakeTensor._make_subclass(  # noqa: SLF001
            FakeTensor, made, dispatch_device=True, device_for_backend_keys=device
        )
        torch._C._set_throw_on_mutable_data_ptr(wrapped)  # noqa: SLF001
        vars(wrapped).update(self._attributes[device])
        return wrapped


_DEVICE_OF = torch.ops.prim.device.default

_Layout = tuple[Any, Any, int, torch.dtype, torch.device]
"""Shape, strides, offset from the tensor of which it is a view, type, device."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What an operator returned: the outputs' layouts, in a tuple or list or (``None``) alone."""

    kind: type | None
    layouts: tuple[_Layout, ...]


def _remembered(result: Any, base: Any) -> _Remembered | None:
    """What to remember of a result; ``None`` where shapes and types do not say all of it."""
    kind: type | None = type(result) if isinstance(result, tuple | list) else None
    outputs: Any = (result,) if kind is None else result
    layouts: list[_Layout] = []
    for out in outputs:
        if type(out) is not FakeTensor or out.constant is not None:
            return None
        if out.dtype.is_complex:  # it may be conjugated, in name only
            return None
        if base is not None and (type(base) is not FakeTensor or out.dtype != base.dtype):
            return None
        offset = 0 if base is None else int(out.storage_offset() - base.storage_offset())
        layouts.append((out.shape, out.stride(), offset, out.dtype, out.fake_device))
    return _Remembered(kind, tuple(layouts))


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
