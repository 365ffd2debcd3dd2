"""The law seen from outside: what a cut network must share with the masked one, and what not.

Nothing here uses the library's own verification: the masked network is a deep copy in which every
slice that a plan removes is zero, both run as they are, and the outputs of every convolution,
linear layer and BatchNorm are compared on what the plan keeps of them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

import gammaslim as gs
from bench.oracle.networks import drift, named_tensors, outputs

TOLERANCE = 1e-4
OUTPUT = "network output"
LAYERS = (_BatchNorm, _ConvNd, nn.Linear)

Spare = Sequence[tuple[str, int]]
"""Ends of tensor names and a dimension: what is not made zero although the plan removes it."""


def masked_copy(model: nn.Module, plan: gs.Plan, spare: Spare = ()) -> nn.Module:
    """A deep copy in which every slice that ``plan`` removes is zero."""
    sites = plan.kept.items()
    gone = {site: np.setdiff1d(np.arange(plan.sizes[site]), kept) for site, kept in sites}
    return _masked(model, gone, spare)


def masked_by(
    model: nn.Module, graph: gs.ChannelGraph, keep: np.ndarray, spare: Spare = ()
) -> nn.Module:
    """A deep copy in which everything is zero that belongs to a channel that goes."""
    sites = graph.sites.items()
    return _masked(model, {s: np.flatnonzero((ids >= 0) & ~keep[ids]) for s, ids in sites}, spare)


def _masked(model: nn.Module, gone: dict[tuple[str, int], np.ndarray], spare: Spare) -> nn.Module:
    """A deep copy in which these indices of tensors' dimensions are zero, but for spared ones."""
    masked = copy.deepcopy(model)
    found = named_tensors(masked)
    with torch.no_grad():
        for (name, dim), indices in gone.items():
            if not any(name.endswith(end) and dim == at for end, at in spare):
                found[name].index_fill_(dim, torch.from_numpy(indices), 0)
    return masked


def kept_slices(plan: gs.Plan, site: tuple[str, int]) -> Tensor:
    """Which slices of the uncut tensor the cut one holds, in order."""
    return torch.from_numpy(plan.indices(site))


@dataclass(frozen=True)
class Finding:
    """One comparison: the worst drift, the first output over the tolerance, how many there were."""

    drift: float
    first: str
    compared: int

    @property
    def holds(self) -> bool:
        """Whether nothing exceeded the tolerance."""
        return not self.first


@dataclass(frozen=True)
class Control:
    """A weight that was rolled by one on purpose, and the first output that gave it away."""

    rolled: str
    caught: str


@dataclass(frozen=True)
class Pair:
    """A masked network and a cut one, the plan that both follow, and what to run them on."""

    masked: nn.Module
    cut: nn.Module
    plan: gs.Plan
    inputs: Any

    def in_float64(self) -> Pair:
        """The same with copies in double precision."""
        masked, cut = (copy.deepcopy(model).double() for model in (self.masked, self.cut))
        return Pair(masked, cut, self.plan, self.inputs.double())

    def compared(self, tolerance: float = TOLERANCE) -> Finding:
        """Every layer on its kept channels, then the networks' outputs."""
        with CountingKept(self.masked, self.plan):
            want = layer_outputs(self.masked, self.inputs, self.plan)
        have = layer_outputs(self.cut, self.inputs)
        drifts = {name: drift(want[name], have.get(name, [])) for name in want}
        over = [name for name, found in drifts.items() if not found <= tolerance]
        return Finding(max(drifts.values()), over[0] if over else "", len(drifts))

    def controls(self) -> list[Control]:
        """Roll a shrunken weight near the start, in the middle, near the end, one at a time.

        A rolled weight pairs its slices with the wrong channels: what a wrong index would do.
        """
        found = []
        tensors = named_tensors(self.cut)
        sites = [(name, dim) for name, dim in self.plan.kept if rollable(name, tensors[name], dim)]
        for place in sorted({len(sites) // 10, len(sites) // 2, 9 * len(sites) // 10}):
            if place < len(sites):
                name, dim = sites[place]
                with rolled(tensors[name], dim):
                    found.append(Control(name, self.compared().first))
        return found


def judged(pair: Pair) -> tuple[Pair, Finding]:
    """The comparison, and the pair it was made on.

    A BatchNorm of a tiny variance magnifies rounding beyond any tolerance.  What is only rounding
    vanishes in double precision; what is wrong stays.
    """
    finding = pair.compared()
    if finding.holds:
        return pair, finding
    precise = pair.in_float64()
    try:
        return precise, precise.compared()
    except RuntimeError:  # the network makes float32 tensors of its own
        return pair, finding


def layer_outputs(
    model: nn.Module, inputs: Any, plan: gs.Plan | None = None
) -> dict[str, list[Tensor]]:
    """What every layer puts out, in the order of the run, then the network's own outputs.

    With a ``plan``, only what it keeps of each.
    """
    seen: dict[str, list[Tensor]] = {}
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(t), name) for name, t in named_tensors(model).items()}

    def watch(name: str, module: nn.Module) -> Any:
        dim, kept = kept_outputs(name, module, plan, names)

        def note(_module: nn.Module, _args: Any, out: Tensor) -> None:
            part = out if kept is None else out.index_select(dim, kept)
            seen.setdefault(name, []).append(part.detach().clone())

        return module.register_forward_hook(note)

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, LAYERS):
                stack.callback(watch(name, module).remove)
        found = outputs(model, inputs)
    return {**seen, OUTPUT: found}


def kept_outputs(
    name: str, module: nn.Module, plan: gs.Plan | None, names: dict[str, str]
) -> tuple[int, Tensor | None]:
    """The dimension of a layer's output that holds its channels, and which are kept, in order.

    ``names``: under which of its names the plan knows a tensor that several layers share.
    """
    dim = -1 if isinstance(module, nn.Linear) else 1
    if plan is None:
        return dim, None

    def kept(key: str, at: int) -> Tensor | None:
        full = f"{name}.{key}"
        site = (names.get(full, full), at)
        return kept_slices(plan, site) if site in plan.kept else None

    for key in ("bias", "running_mean"):
        if (found := kept(key, 0)) is not None:
            return dim, found
    if isinstance(module, _ConvNd) and module.transposed:
        # The weight is (inputs, outputs of one group): a group is there while one of its inputs is.
        rows, columns = kept("weight", 0), kept("weight", 1)
        wide, narrow = module.weight.shape[:2]
        rows = torch.arange(wide) if rows is None else rows
        columns = torch.arange(narrow) if columns is None else columns
        groups = torch.unique(rows // (wide // module.groups))
        return dim, (groups[:, None] * narrow + columns).flatten()
    return dim, kept("weight", 0)


class CountingKept(TorchFunctionMode):
    """Lets LayerNorm and GroupNorm of a masked network take their statistics over kept channels.

    Both count how many channels there are, so zeros alone are no reference for them.
    """

    def __init__(self, masked: nn.Module, plan: gs.Plan) -> None:
        """The affine weights tell which normalisation is running."""
        super().__init__()
        self.kept: dict[int, Tensor] = {}
        for name, tensor in named_tensors(masked).items():
            indices = plan.kept.get((name, 0))
            if indices is not None:
                self.kept[id(tensor)] = torch.from_numpy(indices)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the normalisation on what is kept, and put zeros elsewhere."""
        kwargs = kwargs or {}
        if func is functional.layer_norm:
            return self.layer_norm(*args, **kwargs)
        if func is functional.group_norm:
            return self.group_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def layer_norm(
        self,
        input: Tensor,  # noqa: A002
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """Over the last dimension."""
        kept = self.kept.get(id(weight))
        if kept is None or weight is None:
            return functional.layer_norm(input, list(normalized_shape), weight, bias, eps)
        narrowed = partial(functional.layer_norm, normalized_shape=[len(kept)], eps=eps)
        return over_kept(narrowed, (input, weight, bias), kept, dim=-1)

    def group_norm(
        self,
        input: Tensor,  # noqa: A002
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """Over the groups of which anything is kept."""
        kept = self.kept.get(id(weight))
        if kept is None or weight is None:
            return functional.group_norm(input, num_groups, weight, bias, eps)
        groups = len(np.unique(kept.numpy() // (len(weight) // num_groups)))
        narrowed = partial(functional.group_norm, num_groups=groups, eps=eps)
        return over_kept(narrowed, (input, weight, bias), kept, dim=1)


def over_kept(
    norm: Callable[..., Tensor],
    tensors: tuple[Tensor, Tensor, Tensor | None],
    kept: Tensor,
    dim: int,
) -> Tensor:
    """A normalisation of the kept channels along ``dim``, and zero at all others."""
    whole, weight, bias = tensors
    shift = None if bias is None else bias[kept]
    done = norm(whole.index_select(dim, kept), weight=weight[kept], bias=shift)
    return torch.zeros_like(whole).index_copy(dim, kept, done)


def rollable(name: str, tensor: Tensor, dim: int) -> bool:
    """Whether it is a weight, and so large that rolling changes it."""
    return tensor.ndim > 1 and tensor.shape[dim] > 1 and name.endswith("weight")


@contextlib.contextmanager
def rolled(tensor: Tensor, dim: int) -> Generator[None]:
    """Roll by one, and back."""
    with torch.no_grad():
        whole = tensor.clone()
        tensor.copy_(whole.roll(1, dim))
        try:
            yield
        finally:
            tensor.copy_(whole)
