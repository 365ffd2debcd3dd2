"""What each process of a group runs; one group per number of processes makes all results.

Every process takes its share of each batch, with BatchNorm in evaluation mode, so that the mean of
the gradients over processes is the gradient of the whole batch, as one process computes it.
"""

from __future__ import annotations

import copy
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import gammaslim as gs
from gammaslim.errors import GammaslimError
from gammaslim.training.connecting import attach
from tests.training.common import batch, small_net, traced

STEPS = 12
PENALTIES = {
    "L1": gs.L1(0.02),
    "GroupLasso": gs.GroupLasso(0.02),
    "Polarization": gs.Polarization(0.02),
    "Proximal": gs.Proximal(1.5),
    "Budget": gs.Budget(keep_macs=0.5, steps=STEPS, start=0.1, settle=0.4, end=0.5),
}
STYLES = ("DDP", "FSDP2", "FSDP2-parts", "FSDP2-mixed")
Result = dict[str, Any]


# How a network is spread


def spread(model: nn.Module, style: str, mesh: DeviceMesh | None) -> nn.Module:
    """The network as a user would wrap it; widths are 6, 3, 6, 4 and 7."""
    if style == "DDP":
        return DistributedDataParallel(model)
    if style == "FSDP2-parts":
        for part in (model.bn_down, model.mix, model.bn_mix):
            fully_shard(part, mesh=mesh)
    ignored = {model.bn_up.weight, model.bn_arms.bias} if style == "FSDP2-mixed" else set()
    return fully_shard(model, mesh=mesh, ignored_params=ignored)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train_shares(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int], style: str
) -> None:
    """A plain loop, in which each process takes its share of the batch."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if style else (0, 1)
    for step in steps:
        images, classes = batch(step)
        optimizer.zero_grad()
        share = slice(rank * len(images) // world, (rank + 1) * len(images) // world)
        nn.functional.cross_entropy(model(images[share]), classes[share]).backward()
        for parameter in model.parameters():
            # FSDP2 leaves the gradients of parameters that it does not shard to the user.
            if style.startswith("FSDP2") and not isinstance(parameter, DTensor):
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
        optimizer.step()


def outcome(model: nn.Module, handle: Any) -> Result:
    """What is to be the same everywhere."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    found = {name: whole(p) for name, p in inner.named_parameters() if name.startswith("bn")}
    result = {"scales": found, "stats": handle.stats().as_dict(), "steps": handle.steps}
    if isinstance(handle.penalty, gs.Budget):
        result["plan"] = handle.plan().to_json()
    return result


def trained(penalty: Any, style: str = "", mesh: DeviceMesh | None = None) -> Result:
    """A whole training; in this process alone if no style is given."""
    model = small_net().eval()
    graph = traced(model)
    wrapped = spread(model, style, mesh) if style else model
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    handle = attach(wrapped, graph, optimizer, penalty)
    train_shares(wrapped, optimizer, range(STEPS), style)
    return outcome(wrapped, handle)


# More than a training


def resumed() -> Result:
    """Whether a sharded training goes on bit for bit from its state, before, in and after."""
    same = {}
    for stop in (1, 3, 8):
        ends = []
        saved: dict[str, Any] = {}
        for again in (False, True):
            model = small_net().eval()
            graph = traced(model)
            fully_shard(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            handle = attach(model, graph, optimizer, PENALTIES["Budget"])
            if again:
                model.load_state_dict(saved["model"])
                optimizer.load_state_dict(saved["optimizer"])
                handle.load_state_dict(saved["handle"])
            else:
                train_shares(model, optimizer, range(stop), "FSDP2")
                saved = {
                    "model": copied(model.state_dict()),
                    "optimizer": copied(optimizer.state_dict()),
                    "handle": handle.state_dict(),
                }
            train_shares(model, optimizer, range(stop, STEPS), "FSDP2")
            ends.append([whole(parameter) for parameter in model.parameters()])
        same[stop] = all(torch.equal(one, two) for one, two in zip(*ends, strict=True))
    return same


def cut_in_training(style: str) -> Result:
    """A cut in mid-training: the wrapper is refused, a new one goes on; alone without a style."""
    model = small_net().eval()
    wrapped = spread(model, style, None) if style else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    handle = attach(wrapped, traced(model), optimizer, PENALTIES["Budget"])
    train_shares(wrapped, optimizer, range(8), style)
    gs.prune(wrapped, handle.graph, handle.plan(), optimizer=optimizer, handle=handle)
    refused = ""
    if style:
        try:
            wrapped(batch(0)[0])
        except GammaslimError as error:
            refused = str(error)
        wrapped = spread(model, style, None)
    train_shares(wrapped, optimizer, range(8, STEPS), style)
    return {"refused": refused, "weights": [whole(p) for p in model.parameters()]}


def cut_under_ddp() -> Result:
    """The same in several processes."""
    return cut_in_training("DDP")


def cut_while_sharded() -> str:
    """What is said to who cuts a sharded network."""
    model = small_net().eval()
    graph = traced(model)
    plan = gs.select(graph, gs.scores(model, graph), remove_channels=0.3)
    fully_shard(model)
    try:
        gs.prune(model, graph, plan)
    except GammaslimError as error:
        return str(error)
    return ""


def cut_and_sharded_again() -> Result:
    """As docs/cutting.md says: gather, cut what is whole, shard again."""
    model = small_net().eval()
    graph = traced(model)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    handle = attach(model, graph, optimizer, PENALTIES["Budget"])
    train_shares(model, optimizer, range(8), "FSDP2")
    plan = handle.plan()

    everything = StateDictOptions(full_state_dict=True)
    weights, states = get_state_dict(model, optimizer, options=everything)
    model = small_net().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    set_state_dict(
        model, optimizer, model_state_dict=weights, optim_state_dict=states, options=everything
    )
    outcome = gs.prune(model, graph, plan, optimizer=optimizer)
    weights, states = get_state_dict(model, optimizer, options=everything)

    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    set_state_dict(
        model, optimizer, model_state_dict=weights, optim_state_dict=states, options=everything
    )
    train_shares(model, optimizer, range(8, STEPS), "FSDP2")
    cost = outcome.graph.cost().macs
    return {"cost": cost, "weights": [whole(p) for p in model.parameters()]}


def copied(state: Any) -> Any:
    """A state dict whose tensors, sharded ones too, are copies."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(each) for each in state] if isinstance(state, list) else copy.copy(state)


def averaged() -> Result:
    """A sharded average gets the same zeros; one that is not sharded alike is refused."""
    model, average, unsharded = small_net().eval(), small_net(), small_net()
    graph = traced(model)
    fully_shard(model)
    fully_shard(average)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    try:
        attach(model, graph, optimizer, PENALTIES["Proximal"], ema=unsharded)
        refusal = "none"
    except GammaslimError as error:
        refusal = f"{type(error).__name__}: {error}"
    attach(model, graph, optimizer, PENALTIES["Proximal"], ema=average)
    train_shares(model, optimizer, range(STEPS), "FSDP2")
    names = [*graph.scales, *graph.shifts.values()]
    live, mean = (
        torch.cat([whole(dict(net.named_parameters())[name]) for name in names])
        for net in (model, average)
    )
    return {"live": live == 0, "mean": mean == 0, "refusal": refusal}


def overflowed() -> Result:
    """A GradScaler, and a gradient that overflows on the last process alone."""
    model = small_net().eval()
    graph = traced(model)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    handle = attach(model, graph, optimizer, PENALTIES["Budget"])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS + 2):
        images, classes = batch(step)
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(images), classes)).backward()
        if step in (1, 4) and dist.get_rank() == dist.get_world_size() - 1:
            model.head.weight.grad.to_local().fill_(float("inf"))
            model.mix.weight.grad.to_local().fill_(float("nan"))
        scaler.step(optimizer)
        scaler.update()
    return {**outcome(model, handle), "state": handle.state_dict()["settling"]}


def synchronised() -> Result:
    """SyncBatchNorm, made after tracing; gradients are averaged by hand.

    On the CPU its forward runs in evaluation mode only, and DistributedDataParallel refuses it.
    """
    model = small_net().eval()
    graph = traced(model)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    handle = attach(model, graph, optimizer, PENALTIES["GroupLasso"])
    train_shares(model, optimizer, range(STEPS), "FSDP2-none")
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    return outcome(model, handle)


def scored() -> Result:
    """Scores of a sharded network, and of the same one before."""
    model = small_net()
    graph = traced(model)
    before = gs.scores(model, graph)
    fully_shard(model)
    return {"before": before, "after": gs.scores(model, graph)}


def two_meshes() -> str:
    """What is said of a network that is sharded over two meshes."""
    model = small_net()
    graph = traced(model)
    fully_shard(model.bn_mix, mesh=grid()["shard"])
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        attach(model, graph, optimizer, gs.L1(0.1))
    except GammaslimError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def grid() -> DeviceMesh:
    """Four processes: two copies, each in two shards."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard"))


# The group


def everything(world: int) -> dict[Any, Any]:
    """All that the tests ask, by name."""
    results: dict[Any, Any] = {}
    for name, penalty in PENALTIES.items():
        for style in STYLES:
            results[(style, name)] = trained(penalty, style)
        if world == 4:
            results[("HSDP", name)] = trained(penalty, "FSDP2", grid())
    extra: list[Callable[[], Any]] = [
        overflowed,
        averaged,
        cut_under_ddp,
        cut_while_sharded,
        cut_and_sharded_again,
    ]
    extra += [two_meshes] if world == 4 else [resumed, scored, synchronised]
    results |= {each.__name__: each() for each in extra}
    return results


def work(rank: int, world: int, folder: str) -> None:
    """One process: write everything to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(everything(world), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_group(world: int, folder: Path) -> list[dict[Any, Any]]:
    """What each of so many processes found; they fork from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [
        context.Process(target=work, args=(rank, world, str(folder))) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    assert not failed, f"processes {failed} failed; see their output above"
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


if __name__ == "__main__":  # by hand: python -m tests.training.processes 2 /tmp/results
    run_group(int(sys.argv[1]), Path(sys.argv[2]))
