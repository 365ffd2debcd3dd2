"""What is run: penalties, optimizers, precisions, kinds of processes, and the numbers they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from types import MappingProxyType

import torch

import gammaslim as gs
from gammaslim.penalties import AnyPenalty

EPOCHS = 8
BATCH = 64
STEPS = EPOCHS * 21
"""Optimizer steps: the digits have 21 full batches."""
WEIGHT_DECAY = 5e-4
KEEP_MACS = 0.5
PEAKS: Mapping[str, float] = MappingProxyType({"SGD": 0.1, "AdamW": 0.02})
"""Highest learning rates."""
PRECISIONS: Mapping[str, torch.dtype | None] = MappingProxyType(
    {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
)
"""What autocast computes in; beside fp16 there is a ``GradScaler``."""
PROCESSES = ("1 process", "DDP, 2 ranks", "FSDP2, 2 ranks")
STRENGTHS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "SGD": {"L1": 0.02, "GroupLasso": 0.03, "Polarization": 0.02, "Proximal": 0.3},
    "AdamW": {"L1": 0.01, "GroupLasso": 0.03, "Polarization": 0.01, "Proximal": 0.9},
})  # fmt: skip
"""λ, of the size that :func:`gammaslim.suggest_strength` gives where it can give one."""

Maker = Callable[[gs.ChannelGraph, Mapping[str, float]], AnyPenalty | None]
PENALTIES: Mapping[str, Maker] = MappingProxyType({
    "none": lambda _, __: None,
    "L1": lambda _, by: gs.L1(by["L1"]),
    "GroupLasso": lambda _, by: gs.GroupLasso(by["GroupLasso"]),
    "Polarization": lambda _, by: gs.Polarization(by["Polarization"]),
    "Proximal": lambda _, by: gs.Proximal(by["Proximal"]),
    "cost_weighted": lambda graph, by: gs.cost_weighted(gs.GroupLasso(by["GroupLasso"]), graph),
    "Budget": lambda _, __: gs.Budget(keep_macs=KEEP_MACS, steps=STEPS),
})  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One run."""

    penalty: str
    optimizer: str
    precision: str
    processes: str

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return ", ".join(asdict(self).values())

    @property
    def ranks(self) -> int:
        """How many processes train."""
        return 1 if self.processes == PROCESSES[0] else 2

    def make_penalty(self, graph: gs.ChannelGraph) -> AnyPenalty | None:
        """The penalty itself; ``None`` where there is none."""
        return PENALTIES[self.penalty](graph, STRENGTHS[self.optimizer])

    def rate(self, step: int) -> float:
        """The learning rate: up a straight line for a fifth of the steps, then down a cosine."""
        rise = STEPS // 5
        if step < rise:
            return PEAKS[self.optimizer] * (step + 1) / rise
        return PEAKS[self.optimizer] * (1 + math.cos(math.pi * (step - rise) / (STEPS - rise))) / 2


def every() -> list[Setting]:
    """All runs, in the order of the table."""
    axes = (PENALTIES, PEAKS, PRECISIONS, PROCESSES)
    return [Setting(*choice) for choice in product(*axes)]
