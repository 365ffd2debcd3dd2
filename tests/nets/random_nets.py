"""Random networks: a drawn program of steps, interpreted so that every draw is a valid network.

A step is a kind and three numbers; what the numbers mean is up to the kind.  A step that does not
fit where it stands (halving an odd width, pooling a single pixel) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.nets.case import CLASSES, Apply

WIDEST = 24
SIZE = 8
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "silu": nn.SiLU, "hardswish": nn.Hardswish, "gelu": nn.GELU,
    "elu": nn.ELU, "sigmoid": nn.Sigmoid, "leaky": lambda: nn.LeakyReLU(0.1), "none": nn.Identity,
}  # fmt: skip
ACTIVATIONS = tuple(FAMILIES)


@dataclass(frozen=True)
class Step:
    """One step of a program; ``inner`` holds the programs of its branches."""

    kind: str
    a: int = 0
    b: int = 0
    c: int = 0
    inner: tuple[tuple[Step, ...], ...] = ()


@dataclass(frozen=True)
class Program:
    """A stem of some width, steps, and a head."""

    stem: int
    steps: tuple[Step, ...]
    head: str


@dataclass(frozen=True)
class Built:
    """A module with the width and spatial size that it hands on."""

    module: nn.Module
    width: int
    size: int


Builder = Callable[[Step, int, int], Built | None]


def normed(conv: nn.Module, width: int, style: int) -> nn.Module:
    """Convolution, usually a BatchNorm, and an activation; ``style`` decides."""
    layers = [conv] if style % 5 == 0 else [conv, nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, FAMILIES[ACTIVATIONS[style % len(ACTIVATIONS)]]())


def conv(step: Step, width: int, size: int) -> Built:
    """A full convolution to 2 + a channels."""
    outputs, kernel = 2 + step.a % (WIDEST - 1), (1, 3)[step.b % 2]
    layer = nn.Conv2d(width, outputs, kernel, padding=kernel // 2, bias=step.b % 4 > 1)
    return Built(normed(layer, outputs, step.c), outputs, size)


def grouped(step: Step, width: int, size: int) -> Built | None:
    """A convolution in as many groups as divide the width."""
    divisors = [g for g in range(2, width + 1) if width % g == 0]
    if not divisors:
        return None
    groups = divisors[step.a % len(divisors)]
    outputs = groups * (1 + step.b % max(1, WIDEST // groups))
    layer = nn.Conv2d(width, outputs, 3, padding=1, groups=groups, bias=step.b % 2 == 0)
    return Built(normed(layer, outputs, step.c), outputs, size)


def depthwise(step: Step, width: int, size: int) -> Built:
    """A depthwise convolution."""
    layer = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    return Built(normed(layer, width, step.c), width, size)


def upsampled(step: Step, width: int, size: int) -> Built | None:
    """A transposed convolution of stride two."""
    if size > SIZE // 2:
        return None
    outputs = 2 + step.a % (WIDEST - 1)
    layer = nn.ConvTranspose2d(width, outputs, 2, 2)
    return Built(normed(layer, outputs, step.c), outputs, 2 * size)


def preactivated(step: Step, width: int, size: int) -> Built:
    """A norm and an activation on their own."""
    layers = nn.BatchNorm2d(width), FAMILIES[ACTIVATIONS[step.c % len(ACTIVATIONS)]]()
    return Built(nn.Sequential(*layers), width, size)


def pooled(step: Step, width: int, size: int) -> Built | None:
    """Maximum or average over two by two pixels."""
    pool = nn.MaxPool2d(2) if step.a % 2 else nn.AvgPool2d(2)
    return Built(pool, width, size // 2) if size >= 2 else None


def other_norm(step: Step, width: int, size: int) -> Built | None:
    """GroupNorm or InstanceNorm; neither can be trained on a single pixel."""
    if size < 2:
        return None
    groups = 2 if width % 2 == 0 and step.a % 2 else 1
    norm = nn.InstanceNorm2d(width, affine=True) if step.b % 2 else nn.GroupNorm(groups, width)
    return Built(norm, width, size)


class LastNorm(nn.Module):
    """LayerNorm and a linear layer, channels last."""

    def __init__(self, width: int, *, norm: bool) -> None:
        """The norm is optional."""
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Permute there and back."""
        return self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def channels_last(step: Step, width: int, size: int) -> Built:
    """A linear layer over the channels."""
    return Built(LastNorm(width, norm=step.a % 3 == 0), width, size)


class Gate(nn.Module):
    """Squeeze and excite, or a one-channel map, as a factor."""

    def __init__(self, width: int, hidden: int, *, spatial: bool) -> None:
        """Two 1x1 convolutions."""
        super().__init__()
        self.spatial = spatial
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.expand = nn.Conv2d(hidden, 1 if spatial else width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the gate."""
        seen = x if self.spatial else x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(seen))))


def gated(step: Step, width: int, size: int) -> Built:
    """A gate per channel or per pixel."""
    return Built(Gate(width, 1 + step.a % 6, spatial=step.b % 2 == 0), width, size)


class Chain(nn.Module):
    """Branches side by side, joined in a way given by name."""

    def __init__(self, branches: list[nn.Module], join: str) -> None:
        """``join`` is one of add, multiply, cat, split, shuffle, attribute."""
        super().__init__()
        self.branches, self.join = nn.ModuleList(branches), join
        self.left = 0

    def forward(self, x: Tensor) -> Tensor:
        """Feed the branches whole or in parts; reduce what they give."""
        parts = [x] * len(self.branches)
        if self.join in ("split", "shuffle"):
            parts = list(x.chunk(2, 1))
        if self.join == "attribute":
            parts = [x[:, : self.left], x[:, self.left :]]
        outs = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        if self.join == "add":
            return sum(outs[1:], outs[0])
        if self.join == "multiply":
            return outs[0] * outs[1]
        joined = torch.cat(outs, 1)
        return shuffle(2)(joined) if self.join == "shuffle" else joined


def fitted(steps: tuple[Step, ...], width: int, size: int, target: int | None) -> Built:
    """A branch that keeps the size and, if asked, ends at ``target`` channels."""
    built = sequence(tuple(step for step in steps if step.kind in KEEPING), width, size)
    if target is None or built.width == target:
        return built
    last = nn.Sequential(nn.Conv2d(built.width, target, 1, bias=False), nn.BatchNorm2d(target))
    return Built(nn.Sequential(built.module, last), target, size)


def residual(step: Step, width: int, size: int) -> Built:
    """The input plus (or times) one branch."""
    body = fitted(step.inner[0], width, size, width)
    join = "multiply" if step.a % 5 == 0 else "add"
    return Built(Chain([nn.Identity(), body.module], join), width, size)


def concatenated(step: Step, width: int, size: int) -> Built | None:
    """Two or three branches side by side, one of them perhaps the input itself."""
    branches = [fitted(inner, width, size, None) for inner in step.inner]
    total = sum(branch.width for branch in branches)
    if total > 2 * WIDEST:
        return None
    return Built(Chain([branch.module for branch in branches], "cat"), total, size)


def halved(step: Step, width: int, size: int) -> Built | None:
    """The two halves by chunk, each through a branch of its own."""
    if width % 2:
        return None
    branches = [fitted(inner, width // 2, size, None) for inner in step.inner[:2]]
    total = sum(branch.width for branch in branches)
    return Built(Chain([branch.module for branch in branches], "split"), total, size)


def interleaved(step: Step, width: int, size: int) -> Built | None:
    """ShuffleNet's units in a row: half passes by, half goes through a branch, all is shuffled."""
    if width % 2:
        return None
    units: list[nn.Module] = []
    for _ in range(1 + step.a % 3):
        body = fitted(step.inner[0], width // 2, size, width // 2)
        units.append(Chain([nn.Identity(), body.module], "shuffle"))
    return Built(nn.Sequential(*units), width, size)


def sliced(step: Step, width: int, size: int) -> Built | None:
    """Two parts by an attribute, each through a branch of its own."""
    if width < 3:
        return None
    left = 1 + step.a % (width - 1)
    widths = (left, width - left)
    branches = [
        fitted(inner, part, size, None) for inner, part in zip(step.inner, widths, strict=False)
    ]
    chain = Chain([branch.module for branch in branches[:2]], "attribute")
    chain.left = left
    return Built(chain, sum(branch.width for branch in branches[:2]), size)


def shuffle(groups: int) -> Callable[[Tensor], Tensor]:
    """Channel shuffle by view and transpose."""
    return lambda x: (
        x.view(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        .transpose(1, 2)
        .reshape(x.shape[0], -1, *x.shape[2:])
    )


def half_view(x: Tensor) -> Tensor:
    """Two halves of the channels as a dimension of their own."""
    return x.view(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:])


@dataclass(frozen=True)
class Move:
    """A function of the feature map, what it does to the width, and when it fits."""

    function: Callable[[Tensor], Tensor]
    width: Callable[[int], int] = lambda width: width
    divisor: int = 1
    growth: int = 0
    size: Callable[[int], int] = lambda size: size


MOVES: tuple[Move, ...] = (
    Move(shuffle(2), divisor=2),
    Move(shuffle(3), divisor=3),
    Move(lambda x: nn.functional.channel_shuffle(x, 2), divisor=2),
    Move(lambda x: nn.functional.pixel_shuffle(x, 2), lambda w: w // 4, 4, size=lambda s: 2 * s),
    Move(lambda x: nn.functional.pixel_unshuffle(x, 2), lambda w: 4 * w, growth=4,
         size=lambda s: s // 2),
    Move(lambda x: nn.functional.pad(x, (0, 0, 0, 0, 1, 2)), lambda w: w + 3),
    Move(lambda x: x[:, ::2], lambda w: (w + 1) // 2),
    Move(lambda x: x[:, : x.shape[1] // 2], lambda w: w // 2, 2),
    Move(lambda x: x[:, 1:], lambda w: w - 1, 2),
    Move(lambda x: nn.functional.glu(x, 1), lambda w: w // 2, 2),
    Move(lambda x: half_view(x).amax(1), lambda w: w // 2, 2),
    Move(lambda x: half_view(x).sum(2), lambda _: 2, 2),
    Move(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], lambda w: w // 2, 2),
    Move(lambda x: torch.cat((x, -x), 1), lambda w: 2 * w, growth=2),
    Move(lambda x: x.repeat(1, 2, 1, 1), lambda w: 2 * w, growth=2),
    Move(lambda x: x.flip(1)),
    Move(lambda x: x.roll(1, 1)),
    Move(lambda x: x.cumsum(1) / 4),
    Move(lambda x: x * x.softmax(1)),
    Move(lambda x: x - x.mean(1, keepdim=True)),
    Move(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
    Move(lambda x: x + x.flatten(2).softmax(2).view_as(x)),
    Move(lambda x: torch.stack((x, x.neg().relu()), 1).sum(1)),
    Move(lambda x: x.transpose(2, 3).contiguous().flatten(2).unflatten(2, x.shape[2:])),
    Move(lambda x: torch.where(x > 0, x, 0.1 * x).clamp(-4, 4)),
)  # fmt: skip


def moved(step: Step, width: int, size: int) -> Built | None:
    """One of the functions above."""
    move = MOVES[step.a % len(MOVES)]
    outputs, after = move.width(width), move.size(size)
    if width % move.divisor or outputs < 1 or outputs > 2 * WIDEST:
        return None
    if not 1 <= after <= 2 * SIZE or (after < size and size % 2):
        return None
    return Built(Apply(move.function), outputs, after)


BUILDERS: dict[str, Builder] = {
    "conv": conv, "grouped": grouped, "depthwise": depthwise, "upsampled": upsampled,
    "preactivated": preactivated, "pooled": pooled, "other_norm": other_norm,
    "channels_last": channels_last, "gated": gated, "moved": moved, "residual": residual,
    "concatenated": concatenated, "halved": halved, "sliced": sliced,
    "interleaved": interleaved,
}  # fmt: skip
KEEPING = ("conv", "grouped", "depthwise", "preactivated", "other_norm", "channels_last", "gated")
NESTED = ("residual", "concatenated", "halved", "sliced", "interleaved")


def sequence(steps: tuple[Step, ...], width: int, size: int) -> Built:
    """All steps that fit, one after the other."""
    modules: list[nn.Module] = []
    for step in steps:
        built = BUILDERS[step.kind](step, width, size)
        if built is not None:
            modules.append(built.module)
            width, size = built.width, built.size
    return Built(nn.Sequential(*modules), width, size)


def head(kind: str, width: int, size: int) -> nn.Module:
    """What turns the last feature map into the output."""
    if kind == "map":
        return nn.Conv2d(width, CLASSES, 1)
    pool: list[nn.Module] = [nn.Flatten()]
    features = width * size * size
    if kind != "flatten" or features > 512:
        pool, features = [nn.AdaptiveAvgPool2d(1), nn.Flatten()], width
    hidden: list[nn.Module] = []
    if kind == "hidden":
        hidden = [nn.Linear(features, 10), nn.BatchNorm1d(10), nn.ReLU()]
        features = 10
    return nn.Sequential(*pool, *hidden, nn.Linear(features, CLASSES))


def build(program: Program, seed: int = 0) -> nn.Module:
    """The network of a program, in double precision, with reproducible weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stem = nn.Conv2d(3, program.stem, 3, padding=1, bias=False)
        body = sequence(program.steps, program.stem, SIZE)
        return nn.Sequential(
            stem, nn.BatchNorm2d(program.stem), nn.ReLU(), body.module,
            head(program.head, body.width, body.size),
        ).double()  # fmt: skip


NUMBERS = st.integers(0, 119)


def leaves(kinds: tuple[str, ...]) -> st.SearchStrategy[Step]:
    """Steps without branches."""
    return st.builds(Step, st.sampled_from(kinds), NUMBERS, NUMBERS, NUMBERS)


def steps() -> st.SearchStrategy[Step]:
    """A step of any kind; branches hold at most two steps each."""
    flat = tuple(kind for kind in BUILDERS if kind not in NESTED)
    branch = st.lists(leaves(KEEPING), max_size=2).map(tuple)
    nested = st.builds(
        Step, st.sampled_from(NESTED), NUMBERS, NUMBERS, NUMBERS, st.tuples(branch, branch)
    )
    return st.one_of(leaves(("conv", "moved")), leaves(flat), nested)


def programs() -> st.SearchStrategy[Program]:
    """A stem, up to six steps, a head."""
    return st.builds(
        Program,
        st.integers(2, 16),
        st.lists(steps(), min_size=1, max_size=6).map(tuple),
        st.sampled_from(("pool", "flatten", "hidden", "map")),
    )
