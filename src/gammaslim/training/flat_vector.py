"""Where each penalised scale lies in the flat vector that penalties see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import ChannelGraph
from gammaslim.errors import NothingToPruneError, StaleGraphError
from gammaslim.network import Mesh, is_sharded, local, local_indices
from gammaslim.penalties import Scales
from gammaslim.selecting import scale_parameters


@dataclass(frozen=True, eq=False)
class Atlas:
    """The whole flat vector ``[N]`` of a network, whatever part of it a process holds.

    ``numbers`` ``[C]`` are the graph's channels that occur in it; ``channels`` ``[N]`` point into
    them.  ``free`` ``[N]``: values that may go; ``scale`` ``[N]``: scales, the others are shifts.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    numbers: IntArray
    channels: IntArray
    free: BoolArray
    scale: BoolArray

    @classmethod
    def of(cls, graph: ChannelGraph, names: Sequence[str]) -> Atlas:
        """Of these scale and shift tensors, in this order."""
        ids = [graph.sites[(name, 0)] for name in names]
        widths = [len(part) for part in ids]
        flat = np.concatenate(ids)
        numbers, channels = np.unique(flat, return_inverse=True)
        scales = set(graph.scales)
        return cls(
            names=tuple(names),
            widths=tuple(widths),
            numbers=numbers,
            channels=channels.astype(np.int64),
            free=free_channels(graph, flat),
            scale=np.repeat([name in scales for name in names], widths),
        )


def free_channels(graph: ChannelGraph, channels: IntArray) -> BoolArray:
    """Which of these channel ids may go."""
    return (channels >= 0) & graph.prunable[np.maximum(channels, 0)]


def penalised_tensors(
    model: nn.Module, graph: ChannelGraph, *, shifts: bool
) -> tuple[list[str], list[nn.Parameter]]:
    """The scale tensors, and shift tensors if asked for, that a penalty acts on.

    Raises:
        NothingToPruneError: no prunable channel holds a scale.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
    """
    names = [name for name in graph.scales if free_channels(graph, graph.sites[(name, 0)]).any()]
    if not names:
        raise NothingToPruneError(
            f"A penalty needs prunable channels that hold a BatchNorm scale; of the network's "
            f"{len(graph.scales)} scale tensors none has any. graph.frozen says why."
        )
    if shifts:
        names += [graph.shifts[name] for name in names if name in graph.shifts]
    return names, scale_parameters(model, graph, names)


@dataclass(frozen=True, eq=False)
class Layout:
    """The part ``[n]`` of the flat vector that this process holds, on its device.

    ``places`` ``[n]`` point into the atlas.  ``owners`` are the distinct pairs of an optimizer and
    a parameter group, -1 where there is none; ``groups`` ``[n]`` point into them.  ``weights``
    ``[n]`` are what λ is multiplied with (``None``: 1 everywhere).  ``order`` ``[n]`` sorts by
    channel, ``starts`` ``[C + 1]`` is where each then starts.  ``scattered``: over several
    devices of this process.
    """

    atlas: Atlas
    parameters: tuple[nn.Parameter, ...]
    widths: list[int]
    places: Tensor
    channels: Tensor
    owners: tuple[tuple[int, int], ...]
    groups: Tensor
    free: Tensor | None
    weights: Tensor | None
    counted: Tensor | None
    sizes: Tensor
    order: Tensor
    starts: Tensor
    mesh: Mesh
    scattered: bool

    @classmethod
    def of(
        cls,
        atlas: Atlas,
        parameters: Sequence[nn.Parameter],
        optimizers: Sequence[Optimizer],
        weights: np.ndarray[Any, Any] | None = None,
    ) -> Layout:
        """Lay these parameters out; ``weights`` per channel of the graph."""
        parts = [local_indices(parameter) for parameter in parameters]
        starts = np.cumsum([0, *atlas.widths[:-1]]).tolist()
        places = torch.cat([part + start for part, start in zip(parts, starts, strict=True)])
        widths = [len(part) for part in parts]
        mesh = Mesh.of(parameters)
        owner_of = owning(optimizers, parameters)
        owners = sorted(set(owner_of))
        numbers = [owners.index(owner) for owner in owner_of]
        scale = None if weights is None else weights[atlas.numbers][atlas.channels]
        if not atlas.free.all():
            scale = atlas.free.astype(np.float64) * (1.0 if scale is None else scale)
        double = any(parameter.dtype == torch.float64 for parameter in parameters)
        kind = torch.float64 if double else torch.float32
        channels = torch.from_numpy(atlas.channels)[places]
        order = channels.argsort(stable=True)
        layout = cls(
            atlas=atlas,
            parameters=tuple(parameters),
            widths=widths,
            places=places,
            channels=channels,
            owners=tuple(owners),
            groups=torch.from_numpy(np.repeat(numbers, widths)),
            free=None if atlas.free.all() else torch.from_numpy(atlas.free)[places],
            weights=None if scale is None else torch.from_numpy(scale)[places].to(kind),
            counted=_counted(parameters, widths, mesh),
            sizes=torch.from_numpy(np.bincount(atlas.channels)).to(kind),
            order=order,
            starts=torch.searchsorted(channels[order], torch.arange(len(atlas.numbers) + 1)),
            mesh=mesh,
            scattered=False,
        )
        return layout.moved()

    @property
    def num_channels(self) -> int:
        """How many channels the vector's values belong to."""
        return len(self.atlas.numbers)

    def on_device(self) -> Layout:
        """This layout where its parameters are now; they may have moved since (``model.to``)."""
        return self if self.parameters[0].device == self.channels.device else self.moved()

    def moved(self) -> Layout:
        """All its tensors on the device of its first parameter."""
        home = self.parameters[0].device
        tensors = {n: v.to(home) for n, v in vars(self).items() if isinstance(v, Tensor)}
        scattered = len({parameter.device for parameter in self.parameters}) > 1
        return replace(self, **tensors, scattered=scattered)

    def gather(self) -> Tensor:
        """All values as one vector ``[n]``, at least in single precision.

        Raises:
            StaleGraphError: there are not as many as there were when attached.
        """
        return self._joined([local(parameter) for parameter in self.parameters])

    def gather_gradients(self, chosen: Sequence[int]) -> Tensor:
        """The gradients of the chosen parameters in a vector ``[n]``; 0 where there is none."""
        grads = {index: self.parameters[index].grad for index in chosen}
        found = {index: local(grad) for index, grad in grads.items() if grad is not None}
        if len(found) == len(self.parameters):
            return self._joined([found[index] for index in range(len(found))])
        zeros = torch.zeros(self.channels.shape, device=self.channels.device).split(self.widths)
        return self._joined([found.get(index, zero) for index, zero in enumerate(zeros)])

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        if self.scattered:
            parts = [part.to(self.channels.device) for part in parts]
        flat = torch.cat(tuple(parts))
        if flat.numel() != self.channels.numel():
            self._complain()
        # Squares of half-precision scales underflow.
        return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat

    def scales(self, values: Tensor, rates: Tensor | float = 0.0) -> Scales:
        """What a penalty sees; its strengths are the weights that values have, without λ."""
        return Scales(
            values=values,
            channels=self.channels,
            num_channels=self.num_channels,
            strengths=1.0 if self.weights is None else self.weights,
            rates=rates,
            penalised=self.free,
            counted=self.counted,
            combine=None if self.mesh.whole else self.mesh.combine,
            total=int(np.count_nonzero(self.atlas.free)),
            sizes=self.sizes,
            # Metal has no segment_reduce, and no second process either.
            sorting=None if values.device.type == "mps" else (self.order, self.starts),
        )

    def rates(self, optimizers: Sequence[Optimizer | None], values: Tensor) -> Tensor | float:
        """The learning rate, or ``[n]`` that of each value where they differ; 0 for no optimizer.

        Numbers are filled in on the device: copying them there would wait for it.
        """
        each = [_rate(optimizers, owner) for owner in self.owners if owner[0] >= 0]
        if all(_same(rate, each[0]) for rate in each):
            return each[0]
        listed = [_rate(optimizers, owner) for owner in self.owners]
        home, kind = values.device, values.dtype
        filled = [
            rate.to(home, kind)
            if isinstance(rate, Tensor)
            else torch.full((), rate, device=home, dtype=kind)
            for rate in listed
        ]
        return torch.stack(filled).index_select(0, self.groups)

    def whole(self) -> np.ndarray[Any, Any]:
        """The whole flat vector ``[N]`` as float64; every process of a mesh must call it."""
        with torch.no_grad():
            values = self.gather()
            if not self.mesh.whole:
                if self.counted is not None:
                    values = values * self.counted
                flat = values.new_zeros(len(self.atlas.channels))
                values = self.mesh.combine(flat.index_copy_(0, self.places, values))
        return values.cpu().double().numpy()

    def alive(self) -> Tensor:
        """``[n]``: 0 at values that may go and are exactly zero, 1 elsewhere."""
        alive = self.gather() != 0
        return (alive if self.free is None else alive | ~self.free).float()

    def check(self) -> None:
        """Refuse to go on with a network that was cut.

        Raises:
            StaleGraphError: it was.
        """
        if any(local(p).numel() != n for p, n in zip(self.parameters, self.widths, strict=True)):
            self._complain()

    def multiply(self, factors: Tensor, chosen: Sequence[int]) -> None:
        """Multiply those of the chosen parameters that are trained by their part of ``[n]``."""
        trained = [index for index in chosen if self.parameters[index].requires_grad]
        values = [local(self.parameters[index]) for index in trained]
        if trained:
            torch._foreach_mul_(values, split(factors, self.widths, trained, values))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def scatter(self, term: Tensor, strength: float, chosen: Sequence[int]) -> None:
        """Add λ times their part to the gradients of the chosen parameters that have one."""
        grads = {index: self.parameters[index].grad for index in chosen}
        found = {index: local(grad) for index, grad in grads.items() if grad is not None}
        targets = list(found.values())
        if targets:
            terms = split(term, self.widths, list(found), targets)
            torch._foreach_add_(targets, terms, alpha=strength)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def _complain(self) -> None:
        name, parameter, width = next(
            (name, parameter, width)
            for name, parameter, width in zip(
                self.atlas.names, self.parameters, self.widths, strict=True
            )
            if local(parameter).numel() != width
        )
        raise StaleGraphError(
            f"A penalty was attached when {name!r} had {width} scales; now it has "
            f"{local(parameter).numel()}: the network was cut meanwhile. Cut with gs.prune(..., "
            "handle=handle), or detach, trace the network again and attach with the new graph."
        )


def split(
    flat: Tensor, widths: Sequence[int], chosen: Sequence[int], targets: Sequence[Tensor]
) -> list[Tensor]:
    """The chosen parts of a flat vector, of the type and on the device of their targets.

    It is converted as a whole, once for each type and device among them.
    """
    kinds = {(target.device, target.dtype) for target in targets}
    parts = {kind: flat.to(kind[0], kind[1]).split(list(widths)) for kind in kinds}
    pairs = zip(chosen, targets, strict=True)
    return [parts[(target.device, target.dtype)][index] for index, target in pairs]


def multiply_copies(copies: Sequence[Tensor], factors: Tensor, widths: Sequence[int]) -> None:
    """Multiply tensors laid out as those of a layout, such as an average of them."""
    values = [local(copy) for copy in copies]
    torch._foreach_mul_(values, split(factors, widths, range(len(values)), values))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def owning(
    optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]
) -> list[tuple[int, int]]:
    """The number of the optimizer of each, the first that has it, and of its parameter group.

    (-1, -1) for a parameter that none of them has.
    """
    owner_of: dict[int, tuple[int, int]] = {}
    for number, optimizer in enumerate(optimizers):
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                owner_of.setdefault(id(parameter), (number, index))
    return [owner_of.get(id(parameter), (-1, -1)) for parameter in parameters]


def _rate(optimizers: Sequence[Optimizer | None], owner: tuple[int, int]) -> Tensor | float:
    optimizer = None if owner[0] < 0 else optimizers[owner[0]]
    return 0.0 if optimizer is None else optimizer.param_groups[owner[1]]["lr"]


def _same(rate: Tensor | float, other: Tensor | float) -> bool:
    """Whether two learning rates are known to be equal; tensors are not read."""
    if isinstance(rate, Tensor) or isinstance(other, Tensor):
        return rate is other
    return rate == other


def _counted(parameters: Sequence[Tensor], widths: Sequence[int], mesh: Mesh) -> Tensor | None:
    """0 at what another process counts: the first of a mesh answers for what all hold alike."""
    sharded = [is_sharded(parameter) for parameter in parameters]
    if mesh.whole or all(sharded):
        return None
    mine = [float(mesh.first or alone) for alone in sharded]
    return torch.from_numpy(np.repeat(mine, widths)).float()
