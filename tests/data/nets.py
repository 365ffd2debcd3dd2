"""The network of ``before_packages.safetensors``: a shuffle, a branch that left, a number held."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual branch, all of whose scales were zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Shuffled(nn.Module):
    """A ShuffleNet unit, a residual block, and a split by a number that the module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.other = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = Block(12)
        self.wide = nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12))
        self.width = 6
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat([left, self.other(right)], dim=1)
        x = self.wide(nn.functional.channel_shuffle(x, 2))
        gate, value = torch.split(self.block(x), self.width, dim=1)
        return self.head((gate.sigmoid() * value).mean(dim=(2, 3)))
