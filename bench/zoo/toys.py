"""Small networks with the habits of detectors and segmenters that no library here offers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class Pair(nn.Module):
    """Two convolutions, with a shortcut where the widths allow it."""

    def __init__(self, inputs: int, outputs: int, ratio: float = 1.0, *, shortcut: bool) -> None:
        """``ratio`` is the width between the two, as a share of ``outputs``."""
        super().__init__()
        middle = int(outputs * ratio)
        self.first, self.second = unit(inputs, middle), unit(middle, outputs)
        self.add = shortcut and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Add the input where there is a shortcut."""
        y = self.second(self.first(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """YOLOv8's stage: one half passes by, the other feeds a chain; every link is concatenated."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, shortcut: bool) -> None:
        """``depth`` blocks of half the output's width."""
        super().__init__()
        self.c = outputs // 2
        self.spread = unit(inputs, 2 * self.c, 1)
        self.merge = unit((2 + depth) * self.c, outputs, 1)
        self.chain = nn.ModuleList(self.block(shortcut=shortcut) for _ in range(depth))

    def block(self, *, shortcut: bool) -> nn.Module:
        """One link of the chain."""
        return Pair(self.c, self.c, shortcut=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The halves come from ``chunk``."""
        links = list(self.spread(x).chunk(2, 1))
        for block in self.chain:
            links.append(block(links[-1]))
        return self.merge(torch.cat(links, 1))


class C3k(nn.Module):
    """A chain of blocks beside a plain convolution, concatenated."""

    def __init__(self, width: int, depth: int) -> None:
        """Both branches have half of ``width``."""
        super().__init__()
        half = width // 2
        self.left, self.right = unit(width, half, 1), unit(width, half, 1)
        self.chain = nn.Sequential(*(Pair(half, half, shortcut=True) for _ in range(depth)))
        self.merge = unit(2 * half, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Chain and by-pass, side by side."""
        return self.merge(torch.cat((self.chain(self.left(x)), self.right(x)), 1))


class C3k2(C2f):
    """YOLO11's stage: a C2f whose links are C3k, cut apart by its own number."""

    def block(self, *, shortcut: bool) -> nn.Module:  # noqa: ARG002 -- C3k always has them
        """One link of the chain."""
        return C3k(self.c, depth=2)

    def forward(self, x: Tensor) -> Tensor:
        """The halves come from ``split`` with the width that the module remembers."""
        links = list(self.spread(x).split((self.c, self.c), 1))
        links.extend(block(links[-1]) for block in self.chain)
        return self.merge(torch.cat(links, 1))


class Pyramid(nn.Module):
    """Pooling three times over, concatenated (SPPF)."""

    def __init__(self, width: int) -> None:
        """``width`` in and out."""
        super().__init__()
        self.narrow, self.merge = unit(width, width // 2, 1), unit(2 * width, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate all four."""
        found = [self.narrow(x)]
        found.extend(self.pool(found[-1]) for _ in range(3))
        return self.merge(torch.cat(found, 1))


class Detect(nn.Module):
    """Boxes as distributions over ``bins`` distances, and class scores, for every scale."""

    def __init__(self, widths: tuple[int, ...], classes: int = 5, bins: int = 8) -> None:
        """One pair of branches for each of ``widths``."""
        super().__init__()
        self.classes, self.bins, self.per_cell = classes, bins, classes + 4 * bins
        self.boxes = nn.ModuleList(self.branch(width, 4 * bins) for width in widths)
        self.scores = nn.ModuleList(self.branch(width, classes) for width in widths)
        self.register_buffer("distances", torch.arange(bins).float(), persistent=False)

    @staticmethod
    def branch(inputs: int, outputs: int) -> nn.Sequential:
        """Two units and a plain convolution."""
        return nn.Sequential(unit(inputs, 32), unit(32, 32), nn.Conv2d(32, outputs, 1))

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """Raw maps in training, decoded distances and scores in evaluation."""
        pairs = zip(maps, self.boxes, self.scores, strict=True)
        raw = [torch.cat((boxes(x), scores(x)), 1) for x, boxes, scores in pairs]
        if self.training:
            return raw
        cells = torch.cat([x.view(x.shape[0], self.per_cell, -1) for x in raw], 2)
        boxes, scores = cells.split((4 * self.bins, self.classes), 1)
        batch, _, count = boxes.shape
        shares = boxes.view(batch, 4, self.bins, count).softmax(2)
        distances = (shares * self.distances.view(1, 1, -1, 1)).sum(2)
        return torch.cat((distances, scores.sigmoid()), 1)


class Detector(nn.Module):
    """A backbone, one step up with a concatenation, one step down, and two scales."""

    def __init__(self, stage: type[C2f]) -> None:
        """``stage`` is what every level is made of."""
        super().__init__()
        self.stem = nn.Sequential(unit(3, 16, 3, 2), unit(16, 32, 3, 2))
        self.fine = stage(32, 32, 1, shortcut=True)
        self.down = unit(32, 64, 3, 2)
        self.coarse = stage(64, 64, 2, shortcut=True)
        self.pyramid = Pyramid(64)
        self.up = nn.Upsample(scale_factor=2)
        self.top_down = stage(96, 32, 1, shortcut=False)
        self.down_again = unit(32, 32, 3, 2)
        self.bottom_up = stage(96, 64, 1, shortcut=False)
        self.detect = Detect((32, 64))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """What :class:`Detect` makes of the two scales."""
        fine = self.fine(self.stem(x))
        coarse = self.pyramid(self.coarse(self.down(fine)))
        fine = self.top_down(torch.cat((self.up(coarse), fine), 1))
        coarse = self.bottom_up(torch.cat((self.down_again(fine), coarse), 1))
        return self.detect([fine, coarse])


class UNet(nn.Module):
    """Three levels down, three up; every level's features are concatenated on the way up."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 4) -> None:
        """``widths`` from the finest level to the coarsest."""
        super().__init__()
        inputs = (3, *widths[:-1])
        pairs = list(zip(inputs, widths, strict=True))
        self.down = nn.ModuleList(self.double(*pair) for pair in pairs)
        upward = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(*pair, 2, 2) for pair in upward)
        self.up = nn.ModuleList(self.double(2 * fine, fine) for _, fine in upward)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(widths[0], classes, 1)

    @staticmethod
    def double(inputs: int, outputs: int) -> nn.Sequential:
        """Two units."""
        return nn.Sequential(unit(inputs, outputs), unit(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """One map of scores per class."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            kept.append(x)
        for grow, block, skip in zip(self.grow, self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat((skip, grow(x)), 1))
        return self.head(x)


def yolo_c2f() -> nn.Module:
    """A detector with the stages of YOLOv8."""
    return Detector(C2f)


def yolo_c3k2() -> nn.Module:
    """A detector with the stages of YOLO11."""
    return Detector(C3k2)


def unet() -> nn.Module:
    """A U-Net with skip connections."""
    return UNet()
