"""The sizes that PyTorch's own modules hold as plain numbers, such as ``in_channels``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn

from gammaslim.arrays import FIXED, Dims, IntArray, Site
from gammaslim.channels.records import SizeAttribute
from gammaslim.network.modules import CONVOLUTION, NORM_BASE, first_paths
from gammaslim.recording.findings import ConvSizes, Findings
from gammaslim.tracing.attributes import ChannelsOf

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
