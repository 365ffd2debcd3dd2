"""One run: an ordinary training loop on one process or two, then what came of the scales."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import update_bn

import gammaslim as gs
from bench.penalties.settings import (
    BATCH,
    EPOCHS,
    PEAKS,
    PRECISIONS,
    PROCESSES,
    WEIGHT_DECAY,
    Setting,
)  # fmt: skip
from gammaslim.demo.data import Digits
from gammaslim.demo.nets import CLASSES, ResidualBlock
from gammaslim.demo.training import accuracy, predict

WIDTH = 12
NEAR = 1e-3
"""Scales below this are near zero: a subgradient step swings around zero and never hits it."""


class Net(nn.Module):
    """A narrow residual network for 8x8 images, in which some channels hold several scales."""

    def __init__(self) -> None:
        """A stem, two blocks and a classifier."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.block1 = ResidualBlock(WIDTH, WIDTH, stride=1)
        self.block2 = ResidualBlock(WIDTH, 2 * WIDTH, stride=2)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``[n, 1, 8, 8]`` to logits ``[n, 10]``."""
        return self.head(self.block2(self.block1(self.stem(images))).mean(dim=(2, 3)))


def make_net() -> Net:
    """The same network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def make_optimizer(setting: Setting, model: nn.Module, graph: gs.ChannelGraph) -> Optimizer:
    """Weight decay spares the scales."""
    groups = gs.param_groups(model, graph, weight_decay=WEIGHT_DECAY)
    if setting.optimizer == "SGD":
        return SGD(groups, lr=PEAKS["SGD"], momentum=0.9)
    return AdamW(groups, lr=PEAKS["AdamW"])


@dataclass(eq=False)
class Job:
    """One run on this process, which is ``rank`` of ``setting.ranks``."""

    setting: Setting
    rank: int
    model: nn.Module = field(init=False)
    graph: gs.ChannelGraph = field(init=False)
    optimizer: Optimizer = field(init=False)
    handle: gs.Attachment | None = None

    def __post_init__(self) -> None:
        """Trace, wrap or shard, and attach."""
        self.model = make_net()
        self.graph = gs.trace(self.model, torch.zeros(1, 1, 8, 8))
        if self.setting.processes == PROCESSES[1]:
            self.model = DistributedDataParallel(self.model)
        elif self.setting.processes == PROCESSES[2]:
            fully_shard(self.model, mesh=init_device_mesh("cpu", (self.setting.ranks,)))
        self.optimizer = make_optimizer(self.setting, self.model, self.graph)
        penalty = self.setting.make_penalty(self.graph)
        if penalty is not None:
            self.handle = gs.attach(self.model, self.graph, self.optimizer, penalty)

    def train(self, digits: Digits) -> None:
        """The ordinary loop."""
        generator = torch.Generator().manual_seed(0)
        scaler = torch.amp.GradScaler("cpu", enabled=self.setting.precision == "fp16")
        step = 0
        self.model.train()
        for _ in range(EPOCHS):
            for images, labels in digits.batches(BATCH, generator):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.setting.rate(step)
                self.backward(images, labels, scaler)
                scaler.step(self.optimizer)
                scaler.update()
                step += 1

    def backward(self, images: Tensor, labels: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Gradients of the mean loss of both halves of a batch, each normalised by itself.

        Two ranks take one half each; one process takes one after the other, so that BatchNorm sees
        the same halves.
        """
        dtype = PRECISIONS[self.setting.precision]
        halves = list(zip(images.chunk(2), labels.chunk(2), strict=True))
        self.optimizer.zero_grad()
        for inputs, targets in halves[self.rank :: self.setting.ranks]:
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                loss = functional.cross_entropy(self.model(inputs), targets)
            scaler.scale(loss).backward()
        if self.setting.ranks == 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= 0.5

    def plain(self, digits: Digits) -> Net:
        """The trained network on one process, BatchNorm statistics taken from the training set.

        Every rank must call it.
        """
        model = make_net()
        inner = self.model.module if self.setting.processes == PROCESSES[1] else self.model
        whole = {name: _full(tensor) for name, tensor in inner.state_dict().items()}
        model.load_state_dict(whole)
        update_bn(digits.train_images.split(BATCH), model)
        return model

    def cut(self, model: Net, digits: Digits) -> dict[str, Any]:
        """Remove what is exactly zero, and see whether anything changes."""
        if isinstance(self.handle, gs.Attachment) and isinstance(self.handle.penalty, gs.Budget):
            plan = self.handle.plan()
        else:
            plan = gs.select(self.graph, gs.scores(model, self.graph, reduce="max"), threshold=0.0)
        before = predict(model, digits.test_images)
        outcome = gs.prune(model, self.graph, plan)
        after = predict(model, digits.test_images)
        return {
            "macs": outcome.after.macs / outcome.before.macs,
            "same": torch.equal(before.argmax(dim=1), after.argmax(dim=1)),
            "drift": ((before - after).abs().max() / before.abs().max()).item(),
        }


def run(setting: Setting, rank: int, digits: Digits) -> dict[str, Any]:
    """Train and look: shares, 0 to 1, of the scales that may go, and of the test images."""
    job = Job(setting, rank)
    job.train(digits)
    model = job.plain(digits)
    scales = prunable_scales(model, job.graph).abs()
    return {
        "zeros": (scales == 0).double().mean().item(),
        "near": (scales < NEAR).double().mean().item(),
        "accuracy": accuracy(model, digits),
        "weights": fingerprint_of(model),
        "cut": job.cut(model, digits),
    }


def prunable_scales(model: nn.Module, graph: gs.ChannelGraph) -> Tensor:
    """``[n]``: those of all channels that may go."""
    tensors = model.state_dict()
    parts = [
        tensors[name][torch.from_numpy(graph.prunable[graph.sites[(name, 0)]])]
        for name in graph.scales
    ]
    return torch.cat(parts)


def fingerprint_of(model: nn.Module) -> str:
    """Of all weights, to the last bit."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


def _full(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
