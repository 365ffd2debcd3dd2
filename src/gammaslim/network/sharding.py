"""Parameters that are sharded over processes (FSDP2's DTensors): local parts and global sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gammaslim.errors import OptimizerError


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, all of it if it is plain; memory is shared."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; where it is sharded, every process that holds a part has to call this."""
    full_tensor: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()


@dataclass(frozen=True)
class Mesh:
    """The processes over which the scales are sharded, or none of them.

    ``groups`` are the process groups to sum over, one per sharded dimension of the device mesh;
    ``first`` says whether this process is the first in all of them, which then answers for what
    every one holds.
    """

    groups: tuple[Any, ...] = ()
    first: bool = True

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> Mesh:
        """The mesh that shards these parameters.

        Raises:
            OptimizerError: they are sharded over more than one mesh.
        """
        found = {(p.device_mesh, dims) for p in parameters if (dims := _sharded_dims(p))}  # pyright: ignore[reportAttributeAccessIssue]
        if not found:
            return cls()
        if len(found) > 1:
            raise OptimizerError(
                f"The penalised scales are sharded over {len(found)} different device meshes; "
                "their channels' norms can be summed over one. Shard the whole network over one."
            )
        mesh, dims = next(iter(found))
        place = mesh.get_coordinate()
        first = place is not None and all(place[dim] == 0 for dim in dims)
        return cls(tuple(mesh.get_group(dim) for dim in dims), first)

    @property
    def whole(self) -> bool:
        """Whether nothing is sharded."""
        return not self.groups

    def combine(self, amounts: Tensor) -> Tensor:
        """Sum over all processes that hold other parts, in place."""
        for group in self.groups:
            torch.distributed.all_reduce(amounts, group=group)
        return amounts


def is_sharded(parameter: Tensor) -> bool:
    """Whether this process holds only a part of it."""
    return bool(_sharded_dims(parameter))


def local_indices(parameter: Tensor) -> Tensor:
    """Which indices of a vector this process holds, as int64; nothing is communicated."""
    indices = torch.arange(parameter.numel())
    if not is_sharded(parameter):
        return indices
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # pyright: ignore[reportAttributeAccessIssue]
    there = indices.to(parameter.device)
    return distribute_tensor(there, mesh, placements, src_data_rank=None).to_local().cpu()


def _sharded_dims(parameter: Tensor) -> tuple[int, ...]:
    placements: Sequence[Any] = getattr(parameter, "placements", ())
    return tuple(dim for dim, placement in enumerate(placements) if placement.is_shard())
