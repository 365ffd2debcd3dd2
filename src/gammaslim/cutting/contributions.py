"""What channels and layers that go still contribute: constants and means, seen before the cut.

A :class:`Reading` is what a layer that stays reads of channels that go, for folding; a
:class:`Given` what a layer that leaves as a whole gave, for the constant in its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gammaslim.arrays import IntArray, kept_mask
from gammaslim.channels import Cut
from gammaslim.cutting.constants import set_value
from gammaslim.cutting.undoing import Undo
from gammaslim.errors import CalibrationError
from gammaslim.network import (
    NORM_BASE,
    call_arguments,
    copied,
    first_paths,
    is_plain,
    named_tensors,
    output_tensors,
    preserved_attributes,
    preserved_random_state,
    training_mode,
)

CONSTANT = 1e-6
"""A channel is a constant if it varies by less than this, relative to its largest magnitude."""


@dataclass
class Reading:
    """What one layer, at ``path``, sees of the channels that will go.

    ``columns`` are their indices among its inputs; per column the running sum, count, least and
    largest value.  ``norm``: the BatchNorm that reads this layer's output, if nothing else does.
    """

    module: nn.Module
    path: str
    columns: IntArray
    total: Tensor
    low: Tensor
    high: Tensor
    count: int = 0
    norm: nn.Module | None = None

    def look(self, inputs: Tensor) -> None:
        """Take in one input of the layer."""
        spatial = 0 if isinstance(self.module, nn.Linear) else len(self.module.kernel_size)  # pyright: ignore[reportArgumentType]
        dim = inputs.ndim - 1 - spatial
        index = torch.from_numpy(self.columns).to(inputs.device)
        rows = inputs.detach().index_select(dim, index).movedim(dim, 0).flatten(1)
        if not rows.shape[1]:
            return
        rows = rows.double().cpu()
        self.total += rows.sum(dim=1)
        self.low = torch.minimum(self.low, rows.amin(dim=1))
        self.high = torch.maximum(self.high, rows.amax(dim=1))
        self.count += rows.shape[1]

    def means(self, *, constants_only: bool) -> Tensor:
        """Per column what to fold: its mean, or 0 for a column that is not constant."""
        means = self.total / max(self.count, 1)
        if constants_only:
            largest = torch.maximum(self.low.abs(), self.high.abs())
            means = torch.where(self.high - self.low <= CONSTANT * largest, means, 0.0)
        return means


def has_constants(model: nn.Module, cut: Cut) -> bool:
    """Whether some channel goes whose scales are all zero and one of whose shifts is not."""
    graph = cut.graph
    silent, loud = graph.scored & ~cut.keep, np.zeros(graph.num_channels, dtype=np.bool_)
    for name in graph.scales:
        ids = graph.sites[(name, 0)]
        values = model.get_parameter(name).detach().cpu().numpy() != 0
        silent[ids[(ids >= 0) & values]] = False
        if name in graph.shifts:
            shift = model.get_parameter(graph.shifts[name]).detach().cpu().numpy() != 0
            loud[ids[(ids >= 0) & shift]] = True
    return bool((silent & loud).any())


def observe(
    model: nn.Module,
    cut: Cut,
    batches: Iterable[Any],
    looks: Mapping[str, Callable[[Tensor], None]],
) -> tuple[list[Reading], list[str]]:
    """Run the uncut network in evaluation mode, and look at what each layer sees of what will go.

    ``looks`` are shown what the modules with these paths give, in the same passes.

    Returns:
        One reading per layer that can be folded, and the names of those that cannot.
    """
    readings, skipped = _readings(model, cut)
    if not readings and not looks:
        return [], skipped

    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            readings[module].look(args[0])

    def shown(look: Callable[[Tensor], None]) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: look(output)

    given = [(model.get_submodule(path), shown(look)) for path, look in looks.items()]
    hooks = [module.register_forward_hook(hook) for module, hook in given]
    with _hooked([*hooks, *(module.register_forward_pre_hook(read) for module in readings)]):
        for batch in batches:
            try:
                _run(model, batch, contextlib.nullcontext())
            except Exception as error:  # any failure of the user's own code
                raise CalibrationError(
                    f"The network fails on the calibration data: {type(error).__name__}: {error}."
                ) from error
    for module, norm in _sole_norms(model, cut.graph.example_inputs, list(readings)).items():
        readings[module].norm = norm
    return list(readings.values()), skipped


def _readings(model: nn.Module, cut: Cut) -> tuple[dict[nn.Module, Reading], list[str]]:
    readings: dict[nn.Module, Reading] = {}
    skipped: list[str] = []
    graph = cut.graph
    for module, path in first_paths(model).items():
        if graph.flow.around(path) in cut.leaving.remnants:
            continue
        ids = graph.sites.get((f"{path}.weight" if path else "weight", 1))
        if ids is None or isinstance(module, nn.Embedding):
            continue
        columns = np.flatnonzero(~kept_mask(ids, cut.keep)).astype(np.int64)
        groups = getattr(module, "groups", 1)
        if groups > 1:  # the same column of every group
            columns = (np.arange(groups)[:, None] * len(ids) + columns).ravel()
        if not len(columns):
            continue
        if not is_plain(module):
            skipped.append(path)
            continue
        zeros = torch.zeros(len(columns), dtype=torch.float64)
        readings[module] = Reading(module, path, columns, zeros, zeros + np.inf, zeros - np.inf)
    return readings, skipped


def network_outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What the network gives in evaluation mode."""
    return [copied(t) for t in output_tensors(_run(model, inputs, contextlib.nullcontext()))]


def _run(model: nn.Module, batch: Any, mode: Any) -> Any:
    args, kwargs = call_arguments(model, batch)
    with (
        preserved_random_state(),
        training_mode(model, training=False),
        preserved_attributes(model),
        torch.no_grad(),
        mode,
    ):
        return model(*args, **kwargs)


@contextlib.contextmanager
def _hooked(handles: list[Any]) -> Generator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# conv -> bn, with nothing else reading the conv: what the conv lost can be taken off the running
# mean of bn, and no bias is needed. Not so where a second module, an addition or the network's
# output reads the conv (`uses` counts more than the one use), where bn is shared by two convs, or
# where the conv runs twice and only one of its outputs goes to bn.
def _sole_norms(
    model: nn.Module, example: Any, layers: list[nn.Module]
) -> dict[nn.Module, nn.Module]:
    """For each layer whose output goes to one BatchNorm and nowhere else: that BatchNorm."""
    uses = _Uses()
    found: dict[nn.Module, list[nn.Module]] = {}

    def made(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            uses.owner[id(output)] = (module, output)

    def normalise(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and (known := uses.owner.get(id(args[0]))):
            found.setdefault(known[0], []).append(module)

    norms: list[nn.Module] = [m for m in first_paths(model) if isinstance(m, NORM_BASE)]
    hooks = [m.register_forward_hook(made) for m in layers]
    with _hooked([*hooks, *(m.register_forward_pre_hook(normalise) for m in norms)]):
        _run(model, example, uses)
    calls = dict.fromkeys(layers, 0)
    for module, _ in uses.owner.values():
        calls[module] += 1
    reads = {norm: sum(norm in each for each in found.values()) for norm in norms}
    return {
        module: each[0]
        for module, each in found.items()
        if len(each) == calls[module] == uses.count.get(module, 0)
        and len(set(each)) == 1
        and reads[each[0]] == 1  # a BatchNorm that is shared would shift the others' as well
    }


class _Uses(TorchFunctionMode):
    """Counts how often each layer's output enters a computation."""

    def __init__(self) -> None:
        super().__init__()
        self.owner: dict[int, tuple[nn.Module, Tensor]] = {}
        self.count: dict[nn.Module, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A look at a shape computes nothing."""
        result = func(*args, **(kwargs or {}))
        if any(True for _ in output_tensors(result)):
            for tensor in output_tensors([*args, *(kwargs or {}).values()]):
                if known := self.owner.get(id(tensor)):
                    self.count[known[0]] = self.count.get(known[0], 0) + 1
        return result


class Given:
    """What one layer gave, per channel: the running sum, and the middle of what came first."""

    def __init__(self, dim: int) -> None:
        """Nothing so far; ``dim`` holds the channels."""
        self._dim, self._count = dim, 0
        self._total: Tensor | None = None
        self.middle = torch.empty(0)

    def look(self, output: Tensor) -> None:
        """Take in one output."""
        rows = output.detach().movedim(self._dim, 0).flatten(1).double().cpu()
        if self._total is None:
            self._total, self.middle = torch.zeros(len(rows), dtype=rows.dtype), rows.median(1)[0]
        self._total += rows.sum(dim=1)
        self._count += rows.shape[1]

    @property
    def mean(self) -> Tensor:
        """Over all images and places."""
        assert self._total is not None  # noqa: S101 -- the layer has run
        return self._total / max(self._count, 1)


def silent_part(model: nn.Module, cut: Cut) -> Cut:
    """All channels but those of groups that a cut empties and whose scales are all zero."""
    graph, tensors = cut.graph, named_tensors(model)
    loud = np.zeros(graph.num_channels, dtype=np.bool_)
    for name in graph.scales:
        ids = graph.sites[(name, 0)]
        values = tensors[name].detach().cpu().numpy() != 0
        loud[ids[(ids >= 0) & values]] = True
    silent = np.ones(graph.num_channels, dtype=np.bool_)
    for group in graph.groups:
        scored = group.channels[graph.scored[group.channels]]
        if len(scored) and not (cut.keep[group.channels].any() or loud[scored].any()):
            silent[group.channels] = False
    return Cut(graph, silent)


class Contributions:
    """What each constant of the cut network is to be, measured in the uncut one.

    Where the scales that feed a layer are zero, what it gave is a constant: that, as it is away
    from the borders of an image.  Elsewhere its mean, if ``means``, or nothing.
    """

    def __init__(self, model: nn.Module, cut: Cut, *, means: bool) -> None:
        """Nothing has been looked at so far."""
        told = {p: r for p, r in cut.leaving.remnants.items() if r.speaks}
        fixed = silent_part(model, cut).leaving.remnants if told else {}
        self._cut, self._told, self._fixed = cut, told, fixed
        self._given = {p: Given(r.dim) for p, r in told.items() if means or p in fixed}

    @property
    def looks(self) -> dict[str, Callable[[Tensor], None]]:
        """Who wants to see what a layer gives, by its path."""
        return {path: given.look for path, given in self._given.items()}

    def values(self) -> dict[str, Tensor]:
        """Per layer that leaves, one value for each channel that is left."""
        layers = self._cut.graph.flow.layers
        found: dict[str, Tensor] = {}
        for path, given in self._given.items():
            value = given.middle if path in self._fixed else given.mean
            left = torch.from_numpy(self._cut.survivors(layers[path].channels))
            if len(left) == self._told[path].width:
                found[path] = value[left]
        return found


def settle(model: nn.Module, values: Mapping[str, Tensor], undo: Undo) -> None:
    """Give the constants of the cut network these values."""
    for path, value in values.items():
        set_value(model, path, value, undo)
