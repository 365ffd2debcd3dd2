"""Sizes that modules hold as numbers: the user's own integers, and ``in_channels`` and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from torch import nn

from gammaslim.arrays import FIXED, Dims, IntArray, Site
from gammaslim.channels import SizeAttribute
from gammaslim.labels import Terms, Variable
from gammaslim.network import CONVOLUTION, NORM_BASE, first_paths
from gammaslim.recording import ConvSizes, Findings, Size, Watcher

ChannelsOf = Callable[[IntArray], IntArray]
LONGEST = 64
"""A longer list of integers is a table of positions, not of sizes, and is not followed."""

_ONE = Fraction(1)


def tag_attributes(model: nn.Module, watcher: Watcher) -> None:
    """Put a followed size in place of each plain integer that one of the user's modules holds.

    Integers in tuples and lists are followed too.  PyTorch's own modules are left alone: what
    their numbers mean is known, but for ``nn.Unflatten``, whose sizes are the user's.  The caller
    puts all attributes back.
    """

    def size(name: str, at: int | None, value: int) -> Size:
        terms = Terms(variables=((Variable(name, at, value), _ONE),))
        return Size(value, terms, watcher)

    def followed(name: str, value: Any) -> Any:
        if type(value) is int:
            return size(name, None, value)
        listed = type(value) in (tuple, list) and 0 < len(value) <= LONGEST
        if listed and all(type(entry) is int for entry in value):
            return type(value)(size(name, at, entry) for at, entry in enumerate(value))
        return value

    for module, path in first_paths(model).items():
        if type(module).__module__.startswith("torch.") and not isinstance(module, nn.Unflatten):
            continue
        own = module.__dict__
        for name in [name for name, value in own.items() if type(value) in (int, tuple, list)]:
            own[name] = followed(f"{path}.{name}" if path else name, own[name])


def held_sizes(
    model: nn.Module, variables: Mapping[Variable, Terms], channels_of: ChannelsOf
) -> Iterator[SizeAttribute]:
    """The attributes that follow a cut, every place of a tuple or list among them."""
    for name in dict.fromkeys(variable.name for variable in variables):
        owner, _, attribute = name.rpartition(".")
        value = getattr(model.get_submodule(owner), attribute)
        entries = enumerate(value) if isinstance(value, tuple | list) else [(None, value)]
        for position, entry in entries:
            fixed = Terms(constant=Fraction(entry))
            terms = variables.get(Variable(name, position, entry), fixed)
            parts = tuple((channels_of(labels), share) for labels, share in terms.parts)
            yield SizeAttribute(name, parts, terms.constant, position)


Sites = Mapping[Site, IntArray]

WEIGHT_SIZES: Mapping[type[nn.Module], Mapping[str, tuple[str, int]]] = {
    nn.Linear: {"in_features": ("weight", 1), "out_features": ("weight", 0)},
    nn.Bilinear: {"out_features": ("weight", 0)},
    nn.GroupNorm: {"num_channels": ("weight", 0)},
    nn.Embedding: {"embedding_dim": ("weight", 1)},
    nn.PReLU: {"num_parameters": ("weight", 0)},
    nn.RNNBase: {"input_size": ("weight_ih_l0", 1)},
    nn.RNNCellBase: {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)},
}
"""Module type -> attribute -> the own tensor and dimension whose length it repeats."""


def module_attributes(
    model: nn.Module, sites: Sites, findings: Findings, channels_of: ChannelsOf
) -> Iterator[SizeAttribute]:
    """The numbers on PyTorch's modules that must follow their tensors, or what runs through."""
    for module, path in first_paths(model).items():
        prefix = f"{path}." if path else ""
        if isinstance(module, CONVOLUTION):
            if path in findings.convolutions:
                yield from _convolution(prefix, findings.convolutions[path], channels_of)
        elif isinstance(module, NORM_BASE):
            if path in findings.norms:
                ids = channels_of(findings.norms[path])
                yield SizeAttribute.counting(f"{prefix}num_features", ids)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            normalized = findings.normalized.get(path, ())
            yield from _normalized_shape(prefix, module, normalized, channels_of)
        else:
            yield from _repeated_lengths(prefix, module, sites)


def _repeated_lengths(prefix: str, module: nn.Module, sites: Sites) -> Iterator[SizeAttribute]:
    for kind, table in WEIGHT_SIZES.items():
        if isinstance(module, kind):
            for attribute, (tensor, dim) in table.items():
                ids = sites.get((f"{prefix}{tensor}", dim))
                if ids is not None and getattr(module, attribute) == len(ids):
                    yield SizeAttribute.counting(f"{prefix}{attribute}", ids)


def _convolution(prefix: str, sizes: ConvSizes, channels_of: ChannelsOf) -> Iterator[SizeAttribute]:
    yield SizeAttribute.counting(f"{prefix}in_channels", channels_of(sizes.inputs))
    yield SizeAttribute.counting(f"{prefix}out_channels", channels_of(sizes.outputs))
    if sizes.partition is not None and sizes.partition.goes_whole:
        ids = channels_of(np.stack([rows[:, 0] for rows in sizes.partition.rows]))
        yield SizeAttribute.counting(f"{prefix}groups", ids.min(axis=0))


def _normalized_shape(
    prefix: str, module: nn.LayerNorm | nn.RMSNorm, dims: Dims, channels_of: ChannelsOf
) -> Iterator[SizeAttribute]:
    """Every place of the tuple, also those that never change."""
    if all(labels is None for labels in dims):
        return
    for position, (length, labels) in enumerate(zip(module.normalized_shape, dims, strict=True)):
        ids = np.full(length, FIXED, dtype=np.int64) if labels is None else channels_of(labels)
        yield SizeAttribute.counting(f"{prefix}normalized_shape", ids, position)
