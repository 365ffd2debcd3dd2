"""Where each penalised scale lies in the flat vector that penalties see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.errors import StaleGraphError
from gammaslim.graph import BoolArray, ChannelGraph, IntArray
from gammaslim.penalties.base import Scales
from gammaslim.shards import Mesh, is_sharded, local, local_indices


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


@dataclass(frozen=True, eq=False)
class Layout:
    """The part ``[n]`` of the flat vector that this process holds, on its device.

    The first ``owned`` parameters belong to the optimizer; the others are only read, since they
    are part of their channels' norms.  ``places`` ``[n]`` point into the atlas, ``groups`` ``[n]``
    are the optimizer's parameter groups, ``weights`` ``[n]`` what λ is multiplied with (``None``: 1
    everywhere).  ``scattered``: over several devices of this process.
    """

    atlas: Atlas
    parameters: tuple[nn.Parameter, ...]
    owned: int
    widths: list[int]
    places: Tensor
    channels: Tensor
    groups: Tensor
    free: Tensor | None
    weights: Tensor | None
    counted: Tensor | None
    sizes: Tensor
    mesh: Mesh
    scattered: bool

    @classmethod
    def of(
        cls,
        atlas: Atlas,
        parameters: Sequence[nn.Parameter],
        owned: int,
        optimizer: Optimizer,
        weights: np.ndarray[Any, Any] | None = None,
    ) -> Layout:
        """Lay these parameters out, the owned ones first; ``weights`` per channel of the graph."""
        parts = [local_indices(parameter) for parameter in parameters]
        starts = np.cumsum([0, *atlas.widths[:-1]]).tolist()
        places = torch.cat([part + start for part, start in zip(parts, starts, strict=True)])
        widths = [len(part) for part in parts]
        mesh = Mesh.of(parameters)
        numbers = _group_numbers(optimizer, parameters)
        scale = None if weights is None else weights[atlas.numbers][atlas.channels]
        if not atlas.free.all():
            scale = atlas.free.astype(np.float64) * (1.0 if scale is None else scale)
        layout = cls(
            atlas=atlas,
            parameters=tuple(parameters),
            owned=owned,
            widths=widths,
            places=places,
            channels=torch.from_numpy(atlas.channels)[places],
            groups=torch.repeat_interleave(torch.tensor(numbers), torch.tensor(widths)),
            free=None if atlas.free.all() else torch.from_numpy(atlas.free)[places],
            weights=None if scale is None else torch.from_numpy(scale)[places].float(),
            counted=_counted(parameters, widths, mesh),
            sizes=torch.from_numpy(np.bincount(atlas.channels)).float(),
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

    def gather_gradients(self) -> Tensor:
        """The gradient of each value as one vector ``[n]``; 0 where there is none."""
        parts = (
            torch.zeros_like(local(p)) if p.grad is None else local(p.grad) for p in self.parameters
        )
        return self._joined(list(parts))

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        if self.scattered:
            parts = [part.to(self.channels.device) for part in parts]
        flat = torch.cat(tuple(parts))
        if flat.numel() != self.channels.numel():
            self._complain()
        # Squares of half-precision scales underflow.
        return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat

    def scales(
        self, values: Tensor, strength: float | Tensor, rates: Tensor | float = 0.0
    ) -> Scales:
        """What a penalty sees: ``values`` and λ, times the weight that each value has."""
        return Scales(
            values=values,
            channels=self.channels,
            num_channels=self.num_channels,
            strengths=strength if self.weights is None else self.weights * strength,
            rates=rates,
            penalised=self.free,
            counted=self.counted,
            combine=None if self.mesh.whole else self.mesh.combine,
            total=int(np.count_nonzero(self.atlas.free)),
            sizes=self.sizes,
        )

    def rates(self, optimizer: Optimizer) -> Tensor | float:
        """The learning rate, or ``[n]`` that of each value where parameter groups differ."""
        rates = [group["lr"] for group in optimizer.param_groups]
        if len(rates) == 1:
            return rates[0]
        home = self.channels.device
        listed = torch.stack([torch.as_tensor(rate, device=home) for rate in rates])
        return listed.index_select(0, self.groups)

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

    def multiply(self, factors: Tensor) -> None:
        """Multiply the owned parameters that are trained."""
        pairs = zip(self.parameters[: self.owned], factors.split(self.widths), strict=False)
        trained = [(local(p), part) for p, part in pairs if p.requires_grad]
        if trained:
            values, parts = map(list, zip(*trained, strict=True))
            _each_multiplied(values, parts)

    def scatter(self, term: Tensor) -> None:
        """Add ``term`` to the gradients of the owned parameters that have one."""
        grads: list[Tensor] = []
        terms: list[Tensor] = []
        for parameter, part in zip(
            self.parameters[: self.owned], term.split(self.widths), strict=False
        ):
            if parameter.grad is not None:
                grads.append(local(parameter.grad))
                terms.append(part)
        if self.scattered:
            terms = [part.to(grad.device) for part, grad in zip(terms, grads, strict=True)]
        if grads:
            torch._foreach_add_(grads, terms)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

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
            f"{local(parameter).numel()}: the network was cut meanwhile. Detach, trace the network "
            "again and attach with the new graph."
        )


def multiply_copies(copies: Sequence[Tensor], factors: Tensor, widths: Sequence[int]) -> None:
    """Multiply tensors laid out as those of a layout, such as an average of them."""
    _each_multiplied([local(copy) for copy in copies], list(factors.split(list(widths))))


def _each_multiplied(values: list[Tensor], parts: list[Tensor]) -> None:
    parts = [part.to(value) for value, part in zip(values, parts, strict=True)]
    torch._foreach_mul_(values, parts)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _counted(parameters: Sequence[Tensor], widths: Sequence[int], mesh: Mesh) -> Tensor | None:
    """0 at what another process counts: the first of a mesh answers for what all hold alike."""
    if mesh.whole:
        return None
    mine = torch.tensor([mesh.first or is_sharded(parameter) for parameter in parameters])
    return torch.repeat_interleave(mine.float(), torch.tensor(widths))


def _group_numbers(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    """The parameter group of each; 0 for one that the optimizer does not own."""
    group_of = {id(p): n for n, group in enumerate(optimizer.param_groups) for p in group["params"]}
    return [group_of.get(id(parameter), 0) for parameter in parameters]
