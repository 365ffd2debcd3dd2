"""Where in the user's own code an operator was called."""

from __future__ import annotations

import inspect
from functools import cache

from torch import nn

_TRACER = "gammaslim.tracing.tracer"
_NOT_THE_USER = (
    "torch.",
    "contextlib",
    "threading",
    "gammaslim.labels",
    "gammaslim.network",
    "gammaslim.recording",
    "gammaslim.rules",
    "gammaslim.tracing",
)
_INSTALLED = ("site-packages", "dist-packages")


def caller_of(module: str) -> str:
    """The module of the code that called, or read something of, the module of this name."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") in (__name__, module):
        frame = frame.f_back
    return "" if frame is None else frame.f_globals.get("__name__", "")


def packages_of(model: nn.Module) -> frozenset[str]:
    """The top-level packages that the classes of a network's modules come from, without torch."""
    found = {type(module).__module__ for module in model.modules()}
    return frozenset(_package(name) for name in found if not name.startswith("torch."))


def user_line(packages: frozenset[str]) -> str:
    """``file:line`` of the innermost running line of the network's own code.

    That is a line of one of its ``packages``, or of a file that nobody installed; failing both, the
    innermost line that belongs neither to PyTorch nor to gammaslim.
    """
    frame, fallback = inspect.currentframe(), ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not _passed_over(module):
            if module == _TRACER:
                break
            name = frame.f_code.co_filename
            if _package(module) in packages or not any(place in name for place in _INSTALLED):
                return f"{name}:{frame.f_lineno}"
            fallback = fallback or f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return fallback


@cache  # every coupling asks for its line: a dozen frames each, of always the same modules
def _passed_over(module: str) -> bool:
    return module == "torch" or (module.startswith(_NOT_THE_USER) and module != _TRACER)


def _package(module: str) -> str:
    return module.partition(".")[0]
