"""Attaches a penalty to an optimizer, so that it acts inside ``optimizer.step()``."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gammaslim.errors import (
    GammaslimWarning,
    NothingToPruneError,
    OptimizerError,
    PenaltyError,
    StaleGraphError,
)
from gammaslim.graph import BoolArray, ChannelGraph
from gammaslim.penalties import Penalty, Shrinkage
from gammaslim.scores import scale_parameters


def attach(
    model: nn.Module, graph: ChannelGraph, optimizer: Optimizer, penalty: Penalty | Shrinkage
) -> Attachment:
    """Let ``penalty`` act on the prunable scales at each ``optimizer.step()``.

    The term is added to the gradients by a step pre-hook: after the trainer has accumulated,
    unscaled and clipped them, or after the closure has made them.  Optimizers that unscale inside
    ``step`` get it multiplied by their ``grad_scale``.  The model is not modified, and scales
    without a gradient at a step are left alone.  A penalty that shrinks values, such as
    ``Proximal``, acts in a step post-hook instead, on what the step has made.

    Args:
        model: the network that ``graph`` was traced from, possibly wrapped (DDP, compiled).
        graph: its channels; the scales of prunable ones are penalised.
        optimizer: the one that trains those scales.
        penalty: for instance ``L1(1e-4)``.

    Returns:
        A handle; ``.detach()`` ends it, as does leaving it as a context manager.

    Raises:
        PenaltyError: ``penalty`` is not a penalty.
        NothingToPruneError: no prunable channel holds a scale.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.  Also
            raised by ``optimizer.step()`` if the network is cut while attached.
        OptimizerError: the optimizer would move none of the penalised scales, or is penalising
            some of them already.

    Warns:
        GammaslimWarning: the optimizer does not own some of the trainable penalised scales.
    """
    if not isinstance(penalty, Penalty | Shrinkage):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PenaltyError(f"A penalty such as L1(1e-4) is needed; found {penalty!r}.")
    target = _innermost(optimizer)
    names = _penalised_names(graph)
    if isinstance(penalty, Shrinkage) and penalty.shifts:
        names += [graph.shifts[name] for name in names if name in graph.shifts]
    parameters = scale_parameters(model, graph, names)
    owned = _owned(target, names, parameters)
    _refuse_second(target, parameters)
    layout = _Layout.of(graph, names, parameters, owned, target)
    return Attachment(target, penalty, layout)


class Attachment:
    """A penalty at work; made by :func:`attach`, ended by :meth:`detach`."""

    def __init__(self, optimizer: Optimizer, penalty: Penalty | Shrinkage, layout: _Layout) -> None:
        """Hook into the optimizer; use :func:`attach`, which checks first."""
        self._penalty = penalty
        self._layout = layout
        self._optimizer_name = type(optimizer).__name__
        self._hook: RemovableHandle | None = (
            optimizer.register_step_post_hook(self._after_step)
            if isinstance(penalty, Shrinkage)
            else optimizer.register_step_pre_hook(self._before_step)
        )
        _ACTIVE.setdefault(optimizer, weakref.WeakSet()).add(self)

    @property
    def penalty(self) -> Penalty | Shrinkage:
        """The penalty given to :func:`attach`."""
        return self._penalty

    @property
    def active(self) -> bool:
        """Whether the penalty still acts."""
        return self._hook is not None

    def detach(self) -> None:
        """Stop penalising; nothing happens the second time."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def covers(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether it is active on any of these parameters."""
        mine = {id(parameter) for parameter in self._layout.parameters}
        return self.active and any(id(parameter) in mine for parameter in parameters)

    def __enter__(self) -> Self:
        """The handle itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Detach."""
        self.detach()

    def __repr__(self) -> str:
        """A one-line summary."""
        layout = self._layout
        state = "" if self.active else ", detached"
        return (
            f"Attachment({self._penalty!r} on {layout.owned} of {len(layout.parameters)} scale "
            f"tensors ({sum(layout.widths)} scales) in {self._optimizer_name}{state})"
        )

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Step pre-hook.  ``args[0]`` is the optimizer itself."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._add(optimizer)
            return None
        # The closure zeroes and refills the gradients inside step (Lightning, LBFGS), so a term
        # added now would be lost.
        wrapped = self._after(optimizer, closure)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (*args[:1], wrapped, *args[2:]), kwargs

    def _after(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        def penalised() -> Any:
            loss = closure()
            self._add(optimizer)
            return loss

        return penalised

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """Step post-hook."""
        if not isinstance(self._penalty, Shrinkage):
            return
        layout = self._layout = self._layout.on_device()
        values, rates = layout.gather(), layout.rates(optimizer)
        factors = self._penalty.factors(values, layout.channels, layout.num_channels, rates)
        if layout.free is not None:
            factors = torch.where(layout.free, factors, 1.0)
        # Fused optimizers skip a step by themselves where gradients overflowed.
        skipped = getattr(optimizer, "found_inf", None)
        if isinstance(skipped, Tensor):
            factors = torch.where(skipped.to(factors.device) > 0, 1.0, factors)
        layout.multiply(factors)

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def _add(self, optimizer: Optimizer) -> None:
        if not isinstance(self._penalty, Penalty):
            return
        layout = self._layout = self._layout.on_device()
        scales = layout.gather()
        term = self._penalty.gradient(scales, layout.channels, layout.num_channels)
        if layout.free is not None:
            term = term * layout.free
        grad_scale = getattr(optimizer, "grad_scale", None)
        if isinstance(grad_scale, Tensor):
            term = term * grad_scale.to(term.device)
        layout.scatter(term)


_ACTIVE: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Attachment]] = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where each penalised scale lies in the flat vector ``[n]``.

    The first ``owned`` parameters belong to the optimizer; the others are only read, since they
    are part of their channels' norms.  ``channels`` ``[n]`` counts densely from 0; ``free``
    ``[n]`` is 0 at scales that may not go, or ``None`` if there are none.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    owned: int
    widths: list[int]
    channels: Tensor
    groups: Tensor
    num_channels: int
    free: Tensor | None
    scattered: bool

    @classmethod
    def of(
        cls,
        graph: ChannelGraph,
        names: Sequence[str],
        parameters: Sequence[nn.Parameter],
        owned: BoolArray,
        optimizer: Optimizer,
    ) -> _Layout:
        """Lay out these parameters, the owned ones first."""
        order: list[int] = np.argsort(~owned, kind="stable").tolist()
        ordered = tuple(parameters[index] for index in order)
        ids = [graph.sites[(names[index], 0)] for index in order]
        widths = [len(part) for part in ids]
        flat = np.concatenate(ids)
        _, dense = np.unique(flat, return_inverse=True)
        free = _free(graph, flat)
        home = ordered[0].device
        return cls(
            names=tuple(names[index] for index in order),
            parameters=ordered,
            owned=int(owned.sum()),
            widths=widths,
            channels=torch.from_numpy(dense.astype(np.int64)).to(home),
            groups=torch.from_numpy(np.repeat(_group_numbers(optimizer, ordered), widths)).to(home),
            num_channels=int(dense.max()) + 1,
            free=None if free.all() else torch.from_numpy(free).to(home),
            scattered=len({parameter.device for parameter in ordered}) > 1,
        )

    def on_device(self) -> _Layout:
        """This layout where its parameters are now; they may have moved since (``model.to``)."""
        if self.parameters[0].device == self.channels.device:
            return self
        home = self.parameters[0].device
        return replace(
            self,
            channels=self.channels.to(home),
            groups=self.groups.to(home),
            free=None if self.free is None else self.free.to(home),
            scattered=len({parameter.device for parameter in self.parameters}) > 1,
        )

    def gather(self) -> Tensor:
        """All scales as one vector ``[n]``, at least in single precision.

        Raises:
            StaleGraphError: there are not as many as there were when attached.
        """
        parts: Sequence[Tensor] = self.parameters
        if self.scattered:
            parts = [part.to(self.channels.device) for part in parts]
        flat = torch.cat(tuple(parts))
        if flat.numel() != self.channels.numel():
            self._complain()
        # Squares of half-precision scales underflow.
        return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat

    def rates(self, optimizer: Optimizer) -> Tensor | float:
        """The learning rate, or ``[n]`` that of each value where parameter groups differ."""
        rates = [group["lr"] for group in optimizer.param_groups]
        if len(rates) == 1:
            return rates[0]
        home = self.channels.device
        listed = torch.stack([torch.as_tensor(rate, device=home) for rate in rates])
        return listed.index_select(0, self.groups)

    def multiply(self, factors: Tensor) -> None:
        """Multiply the owned parameters that are trained."""
        pairs = zip(self.parameters[: self.owned], factors.split(self.widths), strict=False)
        trained = [(p, part.to(p)) for p, part in pairs if p.requires_grad]
        if trained:
            values, parts = map(list, zip(*trained, strict=True))
            torch._foreach_mul_(values, parts)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def scatter(self, term: Tensor) -> None:
        """Add ``term`` to the gradients of the owned parameters that have one."""
        grads: list[Tensor] = []
        terms: list[Tensor] = []
        for parameter, part in zip(
            self.parameters[: self.owned], term.split(self.widths), strict=False
        ):
            if parameter.grad is not None:
                grads.append(parameter.grad)
                terms.append(part)
        if self.scattered:
            terms = [part.to(grad.device) for part, grad in zip(terms, grads, strict=True)]
        if grads:
            torch._foreach_add_(grads, terms)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def _complain(self) -> None:
        name, parameter, width = next(
            (name, parameter, width)
            for name, parameter, width in zip(self.names, self.parameters, self.widths, strict=True)
            if parameter.numel() != width
        )
        raise StaleGraphError(
            f"A penalty was attached when {name!r} had {width} scales; now it has "
            f"{parameter.numel()}: the network was cut meanwhile. Detach, trace the network "
            "again and attach with the new graph."
        )


def _penalised_names(graph: ChannelGraph) -> list[str]:
    names = [name for name in graph.scales if _free(graph, graph.sites[(name, 0)]).any()]
    if not names:
        raise NothingToPruneError(
            f"A penalty needs prunable channels that hold a BatchNorm scale; of the network's "
            f"{len(graph.scales)} scale tensors none has any. graph.frozen says why."
        )
    return names


def _free(graph: ChannelGraph, channels: np.ndarray[Any, Any]) -> BoolArray:
    return (channels >= 0) & graph.prunable[np.maximum(channels, 0)]


def _innermost(optimizer: object) -> Optimizer:
    """The torch optimizer itself: Accelerate and Lightning hand out wrappers without hooks."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(
            f"A torch.optim.Optimizer is needed; found {type(optimizer).__name__}."
        )
    return optimizer


def _owned(
    optimizer: Optimizer, names: Sequence[str], parameters: Sequence[nn.Parameter]
) -> BoolArray:
    """Which of the penalised scale tensors the optimizer owns; loud unless all trainable ones."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    owned = np.array([id(parameter) in held for parameter in parameters], dtype=np.bool_)
    trainable = np.array([parameter.requires_grad for parameter in parameters], dtype=np.bool_)
    if not (owned & trainable).any():
        lack = "are all frozen (requires_grad=False)" if owned.any() else "are not among them"
        raise OptimizerError(
            f"The penalty acts on {len(names)} scale tensors through {type(optimizer).__name__}, "
            f"which holds {len(held)} parameters, but those scales {lack}: first {names[0]!r}. "
            "Attach the optimizer that trains this network's BatchNorm weights."
        )
    missing = np.flatnonzero(~owned & trainable)
    if len(missing):
        warnings.warn(
            f"The optimizer does not own {len(missing)} of the {len(names)} penalised scale "
            f"tensors, first {names[missing[0]]!r}: those get no penalty. Give them to this "
            "optimizer, or set requires_grad=False if they are meant to stay.",
            GammaslimWarning,
            stacklevel=3,
        )
    return owned


def _group_numbers(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    """The parameter group of each; 0 for one that the optimizer does not own."""
    group_of = {id(p): n for n, group in enumerate(optimizer.param_groups) for p in group["params"]}
    return [group_of.get(id(parameter), 0) for parameter in parameters]


def _refuse_second(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    for attachment in _ACTIVE.get(optimizer, ()):
        if attachment.covers(parameters):
            raise OptimizerError(
                f"This optimizer already penalises scales of this network: {attachment!r}. "
                "Detach that first; two penalties on one scale would add up."
            )
