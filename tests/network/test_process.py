"""What gammaslim holds for a whole process: by whom, how weakly, and with two threads at once."""

from __future__ import annotations

import gc
import logging
import random
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import _global_optimizer_pre_hooks

import gammaslim as gs
from gammaslim.network.process import PROCESS, Process

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2),
    )  # fmt: skip


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(IMAGE).square().mean().backward()
    optimizer.step()


def halved(model: nn.Module, **options) -> gs.Outcome:
    graph = gs.trace(model, IMAGE)
    scores = np.random.default_rng(0).uniform(0.1, 1.0, graph.num_channels)
    return gs.prune(model, graph, gs.select(graph, scores, remove_channels=0.5), **options)


def test_nothing_is_left_of_deleted_networks():
    """Neither a parameter, an optimizer nor a penalty, and no hook in all optimizers' steps."""
    gc.collect()
    before = PROCESS.known
    model = network(8)
    optimizer = adam(model)
    handle = gs.attach(model, gs.trace(model, IMAGE), optimizer, gs.L1(1e-3))
    step(model, optimizer)
    halved(model, optimizer=optimizer)
    handle.detach()
    assert PROCESS.hooked
    assert PROCESS.known > before
    gone = [weakref.ref(each) for each in (model, optimizer, handle)]
    del model, optimizer, handle
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert PROCESS.known == before


def test_an_untold_optimizer_is_told_until_it_listens():
    model = network(8)
    untold, other = adam(model), adam(network(4))
    step(model, untold)
    halved(model)
    other.step()
    for _ in range(2):
        with pytest.raises(gs.OptimizerError, match="it was never told of the cut"):
            step(model, untold)
    untold.state.clear()
    step(model, untold)


def test_every_optimizer_is_looked_at_once_after_each_cut():
    looked, hooks = [], len(_global_optimizer_pre_hooks)
    process, model = Process(), network(4)
    optimizer = adam(model)
    shapes = {parameter: parameter.shape for parameter in model.parameters()}
    for _ in range(2):
        process.cut(shapes, looked.append)
        for _ in range(3):
            optimizer.step()
    assert looked == [optimizer] * 2
    process.tidy()
    assert process.hooked  # the parameters live
    del model, optimizer, shapes
    looked.clear()
    gc.collect()
    process.tidy()
    assert not process.known
    assert not process.hooked
    assert len(_global_optimizer_pre_hooks) == hooks


def test_a_wrapper_around_more_than_was_cut_refuses_and_a_new_one_runs(tmp_path):
    """Also one that gammaslim was never handed."""
    whole = nn.Sequential(network(8), nn.ReLU())
    meeting = f"file://{tmp_path / 'rendezvous'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        old, other = (DistributedDataParallel(each) for each in (whole, network(4)))
        halved(whole[0])
        with pytest.raises(gs.StaleGraphError, match="was cut since it was wrapped"):
            old(IMAGE)
        other(IMAGE)
        assert DistributedDataParallel(whole)(IMAGE).shape == (4, 2)
    finally:
        distributed.destroy_process_group()


def test_fake_results_hold_no_tensor():
    gs.trace(network(8), IMAGE)
    assert PROCESS.fake_results
    waiting, seen = [PROCESS.fake_results], set()
    while waiting:
        each = waiting.pop()
        assert not isinstance(each, Tensor | nn.Module)
        if isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            waiting += gc.get_referents(each)


def shared() -> list:
    """What every thread of a process shares and gammaslim sets for a while."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    return [
        torch.get_rng_state().tolist(), random.getstate(), list(warnings.filters),
        logger.level, gc.isenabled(), torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    ]  # fmt: skip


def worked(model: nn.Module) -> tuple[list[Tensor], list]:
    """A life of a network: traced, trained with a penalty, cut, and trained again, three times."""
    optimizer = adam(model)
    for _ in range(3):
        graph = gs.trace(model, IMAGE)
        with gs.attach(model, graph, optimizer, gs.GroupLasso(1e-2)):
            for _ in range(3):
                step(model, optimizer)
        plan = gs.select(graph, gs.scores(model, graph), remove_channels=0.2)
        gs.prune(model, graph, plan, optimizer=optimizer)
        step(model, optimizer)
    return [parameter.detach().clone() for parameter in model.parameters()], [
        (group.name, group.width) for group in graph.groups
    ]


@pytest.fixture
def hurried():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_two_networks_in_two_threads_do_what_each_does_alone(hurried):
    """And what the process shares is as it was."""
    widths = (12, 16, 20)
    expected = {width: worked(network(width).eval()) for width in widths}
    networks = {
        width: network(width).eval() for width in widths
    }  # no dropout: its numbers are shared
    before = shared()
    found, failures = {}, []

    def life(width: int) -> None:
        try:
            found[width] = worked(networks[width])
        except BaseException as error:  # noqa: BLE001 -- a thread's own errors are shown by no one
            failures.append(error)

    threads = [threading.Thread(target=life, args=(width,)) for width in widths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for width in widths:
        assert found[width][1] == expected[width][1]
        for one, other in zip(found[width][0], expected[width][0], strict=True):
            torch.testing.assert_close(one, other)
    assert shared() == before
