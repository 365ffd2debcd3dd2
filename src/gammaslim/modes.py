"""The two modes under which a network is recorded.

A ``TorchFunctionMode`` sees the calls of the network's Python, with the sizes as it wrote them; a
``TorchDispatchMode`` sees the ATen operators they turn into, and hands each to its rule.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gammaslim.recording import Recorder
from gammaslim.sizes import FOLLOWS_SIZES, SHAPE_GETTERS, PythonCall


class FunctionMode(TorchFunctionMode):
    """Sees the network's Python calls, and tags the sizes it reads."""

    def __init__(self, recorder: Recorder) -> None:
        """Report to ``recorder``."""
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call with its arguments on record."""
        kwargs = kwargs or {}
        recorder = self._recorder
        name = getattr(func, "__name__", "")
        if name == "__get__" or func is Tensor.size:
            result = func(*args, **kwargs)
            if func not in SHAPE_GETTERS:
                return result
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return recorder.tagged(args[0], result, dim)
        outer, recorder.call = recorder.call, PythonCall(func, args, kwargs)
        try:
            if name not in FOLLOWS_SIZES:
                for size in recorder.call.sizes():
                    size.escape(size.terms)
            return func(*args, **kwargs)
        finally:
            recorder.call = outer


class DispatchMode(TorchDispatchMode):
    """Sees every ATen operator, runs it below, and has its rule applied."""

    def __init__(self, recorder: Recorder) -> None:
        """Report to ``recorder``."""
        super().__init__()
        self._recorder = recorder
        self._argument_names: dict[Any, list[tuple[str, Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then its rule with all modes off."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._recorder.operator(func, self._bind(func, args, kwargs), result)
        return result

    def _bind(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = self._argument_names.get(func)
        if names is None:
            schema = func._schema.arguments  # noqa: SLF001
            names = [(a.name, a.default_value if a.has_default_value() else None) for a in schema]
            self._argument_names[func] = names
        bound = dict(names)
        bound.update(zip((name for name, _ in names), args, strict=False))
        bound.update(kwargs)
        return bound
