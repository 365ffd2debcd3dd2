"""What gammaslim needs to know about ``nn.Module`` itself: wrappers, names, and restoring state."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gammaslim.errors import StaleGraphError, TraceError
from gammaslim.network.process import PROCESS
from gammaslim.network.source_lines import caller_of

SEED = 0

CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
"""Base class of all convolution modules; torch has no public name for it."""

NORM_BASE = nn.modules.batchnorm._NormBase  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
"""Base class of all BatchNorm and InstanceNorm modules."""

BATCH_NORM = nn.modules.batchnorm._BatchNorm  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
"""Base class of all BatchNorm modules."""

_CONTAINERS = (dict, list, set)
_UNTOUCHED = set(nn.Module().__dict__) - {"_parameters", "_buffers", "_modules"}
"""Attributes that every module has and no forward fills: hooks and the like."""

INPUT_INDEX = "_gammaslim_inputs"
"""The buffer in which a BatchNorm holds which channels of its input it reads.

It follows from the plan, so that it is neither saved nor counted among the network's tensors.
"""

_WRAPPERS = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    AveragedModel,
)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own network inside ``torch.compile``, ``DataParallel`` and DDP wrappers.

    Raises:
        TraceError: something that is no ``nn.Module``, a TorchScript module, or a wrapper that
            sits inside the network, where it cannot be taken off.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TraceError(f"A torch.nn.Module is needed; found {type(model).__name__}.")
    while (inner := _inner(model)) is not None:
        model = inner
    for name, module in every_path(model):
        if name and _inner(module) is not None:
            raise TraceError(
                f"The submodule {name!r} is wrapped in {type(module).__name__}. Wrap the whole "
                "network instead, or prune before wrapping."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{name or 'The network'} is a TorchScript module, whose code cannot be followed. "
                "Prune the Python module and script the result."
            )
    return model


def _inner(module: nn.Module) -> nn.Module | None:
    if isinstance(module, _WRAPPERS):
        return module.module
    if type(module).__name__ == "OptimizedModule":
        return module.get_submodule("_orig_mod")
    return None


def every_path(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module with its dotted path, a shared one under each of its paths.

    The order is that of ``named_modules``, which is many times slower on deep networks.
    """
    found: list[tuple[str, nn.Module]] = []

    def visit(path: str, module: nn.Module) -> None:
        found.append((path, module))
        for name, child in module._modules.items():  # noqa: SLF001
            if child is not None:
                visit(f"{path}.{name}" if path else name, child)

    visit("", model)
    return found


def every_module(model: nn.Module) -> list[nn.Module]:
    """Every module once, in no order in particular."""
    found, waiting = {model: None}, [model]
    while waiting:
        for child in waiting.pop()._modules.values():  # noqa: SLF001
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


def first_paths(model: nn.Module) -> dict[nn.Module, str]:
    """Every module with the first of its dotted paths."""
    paths: dict[nn.Module, str] = {}
    for path, module in every_path(model):
        paths.setdefault(module, path)
    return paths


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, a shared one under each of its names."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for path, module in every_path(model):
        prefix = f"{path}." if path else ""
        for own, found in ((module._parameters, parameters), (module._buffers, buffers)):  # noqa: SLF001
            named = {prefix + n: t for n, t in own.items() if t is not None and n != INPUT_INDEX}
            found.update(named)
    return {**parameters, **buffers}


def on_meta(tensors: dict[str, Tensor]) -> bool:
    """Whether any of these has no memory, so that nothing can be computed with it."""
    return any(tensor.is_meta for tensor in tensors.values())


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer by name."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def named_aliases(tensors: dict[str, Tensor]) -> dict[str, str]:
    """For each tensor that has a second name: second name -> first name."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        owner = first.setdefault(id(tensor), name)
        if owner != name:
            aliases[name] = owner
    return aliases


class ModeFlag(int):
    """Stands in for ``training = False``, and notes whether the network's own code asks for it."""

    asked = False

    def _noted(self) -> None:
        """PyTorch's own modules may ask without being noted: they keep their shapes."""
        if not caller_of(__name__).startswith("torch."):
            self.asked = True

    def __bool__(self) -> bool:
        """False, as in evaluation mode."""
        self._noted()
        return False

    def __eq__(self, other: object) -> bool:
        """Equal to False."""
        self._noted()
        return int.__eq__(self, other) is True

    __hash__ = int.__hash__


@contextlib.contextmanager
def training_mode(model: nn.Module, *, training: bool | ModeFlag) -> Generator[None]:
    """Set every module's ``training`` flag, and give each back the one it had.

    Flags are set directly: a network may override ``train()``.  A BatchNorm of any class asks for
    the mode to choose its statistics, which are those of the same channels: that is not noted.
    """
    flags = [(module, module.training) for module in every_module(model)]
    try:
        for module, _ in flags:
            noted = not isinstance(module, NORM_BASE)
            module.__dict__["training"] = training if noted else bool(int(training))
        yield
    finally:
        for module, flag in flags:
            module.__dict__["training"] = flag


@contextlib.contextmanager
def preserved_random_state() -> Generator[None]:
    """Leave all random states as they were; inside, they always start the same.

    One thread at a time, as these states are the process's.
    """
    with PROCESS.alone():
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            with torch.random.fork_rng():
                random.seed(SEED)
                np.random.seed(SEED)  # noqa: NPY002
                torch.manual_seed(SEED)
                yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def preserved_attributes(model: nn.Module) -> Generator[None]:
    """Put back every module's attributes: a forward may store counters, caches, activations.

    Dicts, lists and sets get their contents back too; what lies deeper is not looked at.
    """
    before = [(module.__dict__, dict(module.__dict__)) for module in every_module(model)]
    containers = [
        (value, value.copy() if value else ())
        for _, attributes in before
        for name, value in attributes.items()
        if name not in _UNTOUCHED and isinstance(value, _CONTAINERS)
    ]
    try:
        yield
    finally:
        for present, contents in [*before, *containers]:
            if present or contents:  # the same object gets its contents back
                present.clear()
                (present.extend if isinstance(present, list) else present.update)(contents)


def check_fresh(model: nn.Module, traced: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a network whose tensors no longer have the shapes that they had when it was traced.

    Raises:
        StaleGraphError: naming the first tensor that differs.
    """
    present = tensor_shapes(model)
    for name in (*traced, *present):
        before, now = traced.get(name), present.get(name)
        if before != now:
            raise StaleGraphError(
                f"{name!r} had shape {before} when the graph was traced and has {now} now. "
                "Trace the network again after every cut, and use each graph with its own network."
            )
