"""Networks that shuffle channels, most of them again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.nets.case import CLASSES, Apply, Case, around, cbr, image

Shuffle = Callable[[Tensor], Tensor]


def by_views(groups: int) -> Shuffle:
    """View, transpose, view; every size comes from the shape."""
    return lambda x: (
        x.view(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        .transpose(1, 2)
        .reshape(x.shape[0], -1, *x.shape[2:])
    )


def strided(x: Tensor) -> Tensor:
    """The inverse shuffle: neighbours go to different halves."""
    batch, width, height, length = x.shape
    x = x.view(batch, width // 2, 2, height, length).permute(0, 2, 1, 3, 4)
    return x.reshape(batch, width, height, length)


class Unit(nn.Module):
    """The first part passes by, each other one is convolved; all are joined and shuffled."""

    def __init__(self, width: int, shuffle: Shuffle, parts: int = 2) -> None:
        """``width`` channels in each of the equal parts."""
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(cbr(width, width, 1), cbr(width, width, groups=width)[:2])
            for _ in range(parts - 1)
        )
        self.shuffle, self.parts = shuffle, parts

    def forward(self, x: Tensor) -> Tensor:
        """Cut, convolve, join, shuffle."""
        first, *others = self.cut(x)
        pairs = zip(self.branches, others, strict=True)
        return self.shuffle(torch.cat([first, *(branch(part) for branch, part in pairs)], 1))

    def cut(self, x: Tensor) -> list[Tensor]:
        """The equal parts."""
        return list(x.chunk(self.parts, 1))


class HeldUnit(Unit):
    """The halves are slices up to and from a number that the unit holds."""

    def __init__(self, width: int, shuffle: Shuffle, parts: int = 2) -> None:
        """Remember the width of a half, and that of both."""
        super().__init__(width, shuffle, parts)
        self.half, self.both = width, 2 * width

    def cut(self, x: Tensor) -> list[Tensor]:
        """Two slices of what is as wide as it was built for."""
        if x.shape[1] != self.both:
            raise ValueError(f"{self.both} channels, please")
        return [x[:, : self.half], x[:, self.half :]]


class SlicedUnit(Unit):
    """The halves are slices up to and from half of the shape."""

    def cut(self, x: Tensor) -> list[Tensor]:
        """Two slices."""
        half = x.shape[1] // 2
        return [x[:, :half], x[:, half:]]


class SplitUnit(Unit):
    """The halves come from ``split`` with a size taken from the shape."""

    def cut(self, x: Tensor) -> list[Tensor]:
        """One split."""
        return list(x.split(x.shape[1] // 2, 1))


class Down(nn.Module):
    """The unit that begins a stage: branches of the whole input, joined and shuffled."""

    def __init__(self, inputs: int, widths: tuple[int, ...], shuffle: Shuffle) -> None:
        """One branch for each width."""
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(cbr(inputs, inputs, groups=inputs)[:2], cbr(inputs, width, 1))
            for width in widths
        )
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        """Branch, join, shuffle."""
        return self.shuffle(torch.cat([branch(x) for branch in self.branches], 1))


def stage(
    width: int,
    units: int,
    *,
    parts: int = 2,
    kind: type[Unit] = Unit,
    shuffle: Shuffle | None = None,
) -> nn.Module:
    """A whole stage of ``parts`` times ``width`` channels."""
    chosen = shuffle or by_views(parts)
    body = [kind(width, chosen, parts) for _ in range(units)]
    return nn.Sequential(Down(16, (width,) * parts, chosen), *body)


def two_stages() -> nn.Module:
    """The second stage begins with branches that both read what the first one shuffled."""
    second = nn.Sequential(Down(20, (6, 6), by_views(2)), Unit(6, by_views(2)))
    return around(nn.Sequential(stage(10, 3), second), 16, 12)


class Residual(nn.Module):
    """A shuffled stage added to something."""

    def __init__(self, *, own: bool) -> None:
        """``own``: to another convolution's output, or else to what was shuffled."""
        super().__init__()
        self.start = Down(16, (8, 8), by_views(2))
        self.beside = cbr(16, 16, 1) if own else nn.Identity()
        self.unit = Unit(8, by_views(2))

    def forward(self, x: Tensor) -> Tensor:
        """``beside(x) + unit(x)``."""
        x = self.start(x)
        return self.beside(x) + self.unit(x)


class GroupedResidual(nn.Module):
    """ShuffleNetV1: grouped, shuffled, depthwise, grouped, added."""

    def __init__(self, width: int, groups: int) -> None:
        """A bottleneck of half the width."""
        super().__init__()
        self.enter = cbr(width, width // 2, 1, groups=groups)
        self.shuffle = by_views(groups)
        self.depthwise = cbr(width // 2, width // 2, groups=width // 2)[:2]
        self.leave = cbr(width // 2, width, 1, groups=groups)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """Bottleneck plus identity."""
        return (x + self.leave(self.depthwise(self.shuffle(self.enter(x))))).relu()


def mixed(x: Tensor) -> Tensor:
    """Between the views each half is centred by the mean of both: the halves are not apart."""
    batch, width, height, length = x.shape
    grid = x.view(batch, 2, width // 2, height, length)
    grid = grid - grid.mean(1, keepdim=True)
    return grid.transpose(1, 2).reshape(batch, width, height, length)


def swapped(x: Tensor) -> Tensor:
    """Between the views the halves change places."""
    batch, width, height, length = x.shape
    grid = x.view(batch, 2, width // 2, height, length).flip(1)
    return grid.transpose(1, 2).reshape(batch, width, height, length)


class Skip(nn.Module):
    """What was shuffled is joined with something else, and later again."""

    def __init__(self) -> None:
        """A stage of twelve beside a convolution of five."""
        super().__init__()
        self.stage, self.beside = stage(6, 2), cbr(16, 5, 1)
        self.leave = cbr(17 + 12, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Join twice."""
        shuffled = self.stage(x)
        joined = torch.cat((self.beside(x), shuffled), 1)
        return self.leave(torch.cat((joined, shuffled.relu()), 1))


class Gated(nn.Module):
    """Squeeze and excite on a shuffled stage, with a LayerNorm over its channels."""

    def __init__(self) -> None:
        """A stage of twelve."""
        super().__init__()
        self.stage, self.norm = stage(6, 2), nn.LayerNorm(12)
        self.reduce, self.expand = nn.Linear(12, 4), nn.Linear(4, 12)
        self.leave = Unit(6, by_views(2))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, gate, go on."""
        x = self.stage(x)
        gate = self.expand(self.reduce(self.norm(x.mean((2, 3)))).relu()).sigmoid()
        return self.leave(x * gate[:, :, None, None])


def flattened() -> nn.Module:
    """A shuffled map is flattened, pixels and all, into a linear layer."""
    pool = nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(
        cbr(3, 16), stage(6, 2), pool, nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8),
        nn.Linear(8, CLASSES),
    )  # fmt: skip


def staged(name: str, middle: Callable[[], nn.Module], outputs: int, note: str) -> Case:
    """A case with a shuffled stage in the middle, of which everything can go."""
    return Case(name, lambda: around(middle(), 16, outputs), image, 0.97, note)


def shuffled_down(shuffle: Shuffle, widths: tuple[int, ...] = (8, 8)) -> nn.Module:
    """One stage's beginning, and a depthwise convolution of what comes out."""
    total = sum(widths)
    return nn.Sequential(Down(16, widths, shuffle), cbr(total, total, groups=total))


SHUFFLING: tuple[Case, ...] = (
    staged("shuffled_stage", lambda: stage(10, 4), 20, "four units in a row"),
    staged("shuffled_odd", lambda: stage(7, 3), 14, "halves of odd width"),
    staged("shuffled_thirds", lambda: stage(6, 2, parts=3), 18, "three parts"),
    staged("shuffled_slices", lambda: stage(7, 3, kind=SlicedUnit), 14, "halves by slices"),
    staged("shuffled_splits", lambda: stage(8, 3, kind=SplitUnit), 16, "halves by split"),
    staged("shuffled_held", lambda: stage(10, 4, kind=HeldUnit), 20, "halves of a held width"),
    staged("shuffled_native", lambda: stage(8, 3, shuffle=nn.ChannelShuffle(2)), 16,
           "torch's own module"),
    staged("shuffled_function", lambda: stage(
        8, 2, shuffle=lambda x: nn.functional.channel_shuffle(x, 2)), 16, "torch's own function"),
    staged("shuffled_unequal", lambda: shuffled_down(by_views(3), (12, 6)), 18,
           "widths of two to one"),
    staged("shuffled_once", lambda: Apply(by_views(4)), 16, "one layer over four parts"),
    staged("shuffled_gate", Gated, 12, "LayerNorm and a gate on a shuffled stage"),
    staged("shuffled_skip", Skip, 16, "joined with something else, twice"),
    staged("shuffled_beside", lambda: Residual(own=True), 16, "a sum with another layer"),
    staged("shuffled_mixed", lambda: shuffled_down(mixed), 16, "parts meet between the views"),
    staged("shuffled_swapped", lambda: shuffled_down(swapped), 16, "parts move between the views"),
    Case("shuffled_twice", two_stages, image, 0.97, "two stages, one after the other"),
    Case("shuffled_flat", flattened, image, 0.97, "flattened with its pixels"),
    Case("unshuffled", lambda: around(stage(8, 3, shuffle=strided)), image, 0.97,
         "a second cut may reach a width that one cut cannot", composes=False),
    Case("shuffled_residual", lambda: around(Residual(own=False)), image, 0.65,
         "the sum with itself couples what is shuffled, again and again"),
    Case("shufflenet_v1", lambda: around(nn.Sequential(*(
        GroupedResidual(24, 3) for _ in range(2))), 24, 24), image, 0.63,
         "grouped convolutions around a shuffle"),
)  # fmt: skip
