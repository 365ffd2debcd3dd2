"""Channel graphs written by hand, each beside the tiny network it describes."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gammaslim.arrays import IntArray, Site
from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.records import Group, SizeAttribute, Work
from gammaslim.penalties import L1
from gammaslim.training.connecting import attach

KERNEL = 3
CLASSES = 2
COLOURS = 3


def ids(first: int, count: int) -> IntArray:
    """Channel ids ``first .. first + count - 1``."""
    return np.arange(first, first + count, dtype=np.int64)


def hand_graph(
    *,
    shapes: Mapping[str, tuple[int, ...]],
    sites: Mapping[Site, IntArray],
    scales: Sequence[str],
    frozen: Iterable[int] = (),
    work: Sequence[Work] = (),
    attributes: Sequence[SizeAttribute] = (),
) -> ChannelGraph:
    """A graph of these sites; channels count as parameters' own, groups follow from the sites."""
    count = 1 + max((int(channels.max()) for channels in sites.values()), default=-1)
    prunable = np.ones(count, dtype=np.bool_)
    prunable[list(frozen)] = False
    return ChannelGraph(
        shapes=shapes,
        parameters=tuple(name for name in shapes if "running" not in name),
        aliases={},
        sites=sites,
        scales=tuple(scales),
        shifts={},
        prunable=prunable,
        exact=np.ones(count, dtype=np.bool_),
        groups=_groups(sites, scales, prunable),
        frozen=(),
        work=tuple(work),
        attributes=tuple(attributes),
    )


def _groups(
    sites: Mapping[Site, IntArray], scales: Sequence[str], prunable: np.ndarray
) -> tuple[Group, ...]:
    where: dict[int, list[Site]] = defaultdict(list)
    for site, channels in sites.items():
        for channel in sorted({int(c) for c in channels if c >= 0}):
            where[channel].append(site)
    members: dict[tuple[tuple[Site, ...], bool], list[int]] = defaultdict(list)
    for channel, places in sorted(where.items()):
        members[(tuple(places), bool(prunable[channel]))].append(channel)
    return tuple(
        Group(
            name=places[0][0],
            channels=np.array(channels, dtype=np.int64),
            sites=places,
            scales=tuple(name for name, _ in places if name in scales),
            prunable=free,
            exact=True,
        )
        for (places, free), channels in members.items()
    )


class PlainNet(nn.Module):
    """conv0 - bn0 - conv1 - bn1 - ... - global average - head."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        before = [COLOURS, *widths]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, width in enumerate(widths):
            layers[f"conv{index}"] = nn.Conv2d(before[index], width, KERNEL, padding=1, bias=False)
            layers[f"bn{index}"] = nn.BatchNorm2d(width)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.Linear(widths[-1], CLASSES)
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.layers:
            x = self.get_submodule(name)(x)
        return self.head(x.mean((2, 3)))


def plain_graph(
    widths: Sequence[int], *, pixels: int = 4, frozen_layers: Sequence[int] = ()
) -> ChannelGraph:
    """The graph of ``PlainNet(widths)`` on one image of that many pixels; one group per layer."""
    starts = np.concatenate([[0], np.cumsum(widths)])
    layer = [ids(int(starts[index]), width) for index, width in enumerate(widths)]
    shapes: dict[str, tuple[int, ...]] = {}
    sites: dict[Site, IntArray] = {}
    work: list[Work] = []
    attributes: list[SizeAttribute] = []
    for index, width in enumerate(widths):
        conv, bn = f"conv{index}", f"bn{index}"
        inner = COLOURS if index == 0 else widths[index - 1]
        shapes[f"{conv}.weight"] = (width, inner, KERNEL, KERNEL)
        sites[(f"{conv}.weight", 0)] = layer[index]
        attributes.append(SizeAttribute.counting(f"{conv}.out_channels", layer[index]))
        axes: tuple[IntArray, ...] = (layer[index],)
        if index:
            sites[(f"{conv}.weight", 1)] = layer[index - 1]
            attributes.append(SizeAttribute.counting(f"{conv}.in_channels", layer[index - 1]))
            axes = (layer[index], layer[index - 1])
        coefficient = KERNEL**2 * pixels * (1 if index else COLOURS)
        work.append(Work("convolution", coefficient, axes))
        for tensor in ("weight", "bias", "running_mean"):
            shapes[f"{bn}.{tensor}"] = (width,)
            sites[(f"{bn}.{tensor}", 0)] = layer[index]
        attributes.append(SizeAttribute.counting(f"{bn}.num_features", layer[index]))
    shapes["head.weight"], shapes["head.bias"] = (CLASSES, widths[-1]), (CLASSES,)
    sites[("head.weight", 1)] = layer[-1]
    work.append(Work("addmm", CLASSES, (layer[-1],)))
    return hand_graph(
        shapes=shapes,
        sites=sites,
        scales=[f"bn{index}.weight" for index in range(len(widths))],
        frozen=[int(channel) for index in frozen_layers for channel in layer[index]],
        work=work,
        attributes=attributes,
    )


class ResidualNet(nn.Module):
    """A stream of ``width`` channels held by two BatchNorms, and a block of ``inner`` ones."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(COLOURS, width, 1, bias=False)
        self.bn_stem = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, inner, 1, bias=False)
        self.bn_down = nn.BatchNorm2d(inner)
        self.up = nn.Conv2d(inner, width, 1, bias=False)
        self.bn_up = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_stem(self.stem(x)).relu()
        x = x + self.bn_up(self.up(self.bn_down(self.down(x)).relu()))
        return self.head(x.mean((2, 3)))


def residual_graph(width: int, inner: int, *, frozen: Iterable[int] = ()) -> ChannelGraph:
    """The graph of ``ResidualNet``: channels ``0..width-1`` are the stream, then the block's."""
    stream, block = ids(0, width), ids(width, inner)
    sites: dict[Site, IntArray] = {
        ("stem.weight", 0): stream,
        ("down.weight", 0): block,
        ("down.weight", 1): stream,
        ("up.weight", 0): stream,
        ("up.weight", 1): block,
        ("head.weight", 1): stream,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "stem.weight": (width, COLOURS, 1, 1),
        "down.weight": (inner, width, 1, 1),
        "up.weight": (width, inner, 1, 1),
        "head.weight": (CLASSES, width),
        "head.bias": (CLASSES,),
    }
    for name, channels in (("bn_stem", stream), ("bn_down", block), ("bn_up", stream)):
        for tensor in ("weight", "bias", "running_mean"):
            shapes[f"{name}.{tensor}"] = (len(channels),)
            sites[(f"{name}.{tensor}", 0)] = channels
    scales = ["bn_stem.weight", "bn_down.weight", "bn_up.weight"]
    return hand_graph(shapes=shapes, sites=sites, scales=scales, frozen=frozen)


WIDTH, INNER = 4, 3
SCALES = ("bn_stem.weight", "bn_down.weight", "bn_up.weight")


def residual_net(seed: int = 0) -> ResidualNet:
    """Random scales of both signs, one of them zero, and one channel zero throughout."""
    torch.manual_seed(seed)
    model = ResidualNet(WIDTH, INNER)
    with torch.no_grad():
        for name in SCALES:
            model.get_parameter(name).normal_()
        model.bn_stem.weight[1] = 0
        model.bn_stem.weight[2] = 0
        model.bn_up.weight[2] = 0
    return model


def fill_gradients(model: nn.Module, value: float = 0.0) -> None:
    """Give every parameter a gradient of that value."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


def step_gradients(model, graph, penalty, value=0.0) -> dict[str, torch.Tensor]:
    """The gradients that an optimizer sees in one step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fill_gradients(model, value)
    attach(model, graph, optimizer, penalty)
    optimizer.step()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def expected_terms(model, graph, penalty) -> dict[str, torch.Tensor]:
    """The penalty's terms from its formula, one channel and one scale at a time."""
    terms = {name: torch.zeros_like(model.get_parameter(name)) for name in graph.scales}
    for channel in np.flatnonzero(graph.prunable):
        places = [
            (name, index)
            for name in graph.scales
            for index in np.flatnonzero(graph.sites[(name, 0)] == channel)
        ]
        values = [model.get_parameter(name)[index].item() for name, index in places]
        norm = max(sum(value**2 for value in values) ** 0.5, 1e-8)
        for (name, index), value in zip(places, values, strict=True):
            shape = np.sign(value) if isinstance(penalty, L1) else value / norm
            terms[name][index] = penalty.strength * shape
    return terms


def widths_of(graph, plan) -> list[int]:
    """How many channels each group keeps."""
    keep = graph.keep_mask(plan)
    return [int(keep[group.channels].sum()) for group in graph.groups]
