"""The two modes under which a network is recorded.

A ``TorchFunctionMode`` sees the calls of the network's Python, with the sizes as it wrote them; a
``TorchDispatchMode`` sees the ATen operators they turn into, and hands each to its rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gammaslim.network import FakeMemo, ModeFlag
from gammaslim.recording import (
    COUNTS,
    SHAPE_GETTERS,
    SIGNATURES,
    Dispatcher,
    Op,
    OperatorCall,
    PythonCall,
    Recorder,
    Rule,
    followed,
)

LEAVES_SIGHT = frozenset([
    "__array__", "__dlpack__", "__reduce_ex__", "apply_", "const_data_ptr", "data_ptr",
    "map_", "map2_", "mutable_data_ptr", "numpy", "storage", "tolist", "untyped_storage",
])  # fmt: skip
"""Tensor methods that hand the data to code of which no operator is seen."""

DATA_SETTERS = frozenset({Tensor.data.__set__})  # type: ignore[attr-defined]
"""What ``x.data = y`` calls."""


def _batch_norm(x: Tensor, mean: Any, variance: Any, *rest: Any, **named: Any) -> Tensor:
    """``F.batch_norm`` that prefers the running statistics, to which one value per channel will do.

    Labels do not depend on whose statistics are used.
    """
    names = ("weight", "bias", "training", "momentum", "eps")
    own = dict(zip(names, rest, strict=False)) | named
    own["training"] = bool(own.get("training")) and mean is None
    return F.batch_norm(x, mean, variance, **own)


class FunctionMode(TorchFunctionMode):
    """Sees the network's Python calls, and tags the sizes it reads."""

    def __init__(self, recorder: Recorder, rules: Mapping[Any, Rule]) -> None:
        """Report to ``recorder``; ``rules`` are those of torch functions, by function."""
        super().__init__()
        self._recorder, self._rules = recorder, rules
        self._instead: dict[Any, Any] = {} if recorder.measuring else {F.batch_norm: _batch_norm}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call with its arguments on record."""
        recorder, name = self._recorder, getattr(func, "__name__", "")
        if name in LEAVES_SIGHT:
            recorder.leaves(args[0], name)
        if name == "__get__" or func is Tensor.size:
            result = func(*args, **(kwargs or {}))
            if func not in SHAPE_GETTERS:
                return result
            dim = SIGNATURES[Tensor.size].bind(args, kwargs or {}).get("dim")
            return recorder.tagged(args[0], result, dim)
        args, kwargs = tuple(map(_plain, args)), {k: _plain(v) for k, v in (kwargs or {}).items()}
        outer, recorder.call = recorder.call, PythonCall.of(func, args, kwargs)
        try:
            if func in self._rules:
                op = Op(func, recorder.call.arguments, (), [])
                self._rules[func](OperatorCall(recorder, op, name))
            if name in COUNTS:
                recorder.count_escapes(args[0], first_only=name == "__len__")
            if func not in SIGNATURES:
                for size in followed((*args, *kwargs.values())):
                    recorder.escaped(size.terms)
            if func in DATA_SETTERS:
                recorder.replaced(*args)
            return self._instead.get(func, func)(*args, **kwargs)
        finally:
            recorder.call = outer


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


class DispatchMode(TorchDispatchMode):
    """Sees every ATen operator, runs it below, and hands it to its rule."""

    supports_higher_order_operators = True

    def __init__(self, dispatcher: Dispatcher, memo: FakeMemo | None = None) -> None:
        """``memo`` remembers what fake operators return."""
        super().__init__()
        self._dispatcher = dispatcher
        self._run = memo.run if memo is not None else _run
        self._defaults: dict[Any, dict[str, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then its rule with all modes off."""
        kwargs = kwargs or {}
        if func.namespace == "prim":  # only reads a property
            return self._run(func, args, kwargs)
        higher = isinstance(func, HigherOrderOperator)
        result = func(*args, **kwargs) if higher else self._run(func, args, kwargs)
        bound = {"operands": args, **kwargs} if higher else self._bind(func, args, kwargs)
        self._dispatcher.operator(func, bound, result)
        return result

    def _bind(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        defaults = self._defaults.get(func)
        if defaults is None:
            schema = func._schema.arguments  # noqa: SLF001
            defaults = {a.name: a.default_value if a.has_default_value() else None for a in schema}
            self._defaults[func] = defaults
        return defaults | dict(zip(defaults, args, strict=False)) | kwargs


def _plain(value: Any) -> Any:
    """A real ``bool`` where a mode flag is handed on to PyTorch, which takes nothing else."""
    return False if type(value) is ModeFlag else value
