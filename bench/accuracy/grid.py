"""What is compared: the methods, the networks, and how much is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from bench.accuracy.nets import NETWORKS

SHARES = (0.15, 0.5, 0.3)
"""Kept MACs, in the order in which they are run: methods differ most at the first."""

DENSE = "dense"
LATE = "budget_late"
"""The same training as ``budget``, cut later: it stands in no comparison of final accuracies."""
METHODS: Mapping[str, str] = MappingProxyType(
    {
        DENSE: "the whole network",
        "budget": "Budget",
        LATE: "Budget, cut at the end",
        "proximal": "Proximal",
        "l1": "L1",
        "group_lasso": "GroupLasso",
        "tp_bn": "Torch-Pruning BNScalePruner",
        "tp_bn_strong": "Torch-Pruning BNScalePruner, strong",
        "tp_group": "Torch-Pruning GroupNormPruner",
        "tp_group_strong": "Torch-Pruning GroupNormPruner, strong",
        "tp_magnitude": "Torch-Pruning magnitude",
        "narrow": "narrower network from scratch",
        "scratch": "Budget's architecture from scratch",
    }
)
"""Names and labels; ``scratch`` needs the result of ``budget``, and so comes after it."""

OURS = ("budget", LATE, "proximal", "l1", "group_lasso")
UNCUT = (DENSE, "narrow", "scratch")
"""Those that train in one piece and cut nothing that was trained."""


@dataclass(frozen=True)
class Entry:
    """One run: ``share`` of the MACs of ``net`` are to be left, 1 for the whole network."""

    method: str
    net: str
    share: float
    seed: int

    @property
    def key(self) -> str:
        """All of it as one line, such as ``budget vgg 0.3 0``."""
        return f"{self.method} {self.net} {self.share:g} {self.seed}"


def entries(seeds: int, shares: Sequence[float] = SHARES) -> Iterator[Entry]:
    """All runs, breadth first: everything with seed 0, then everything with seed 1."""
    for seed in range(seeds):
        for net in NETWORKS:
            yield Entry(DENSE, net, 1.0, seed)
        for share, net, method in product(shares, NETWORKS, METHODS):
            if method != DENSE:
                yield Entry(method, net, share, seed)
