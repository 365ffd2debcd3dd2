"""The parameters of the torch functions that take sizes, so that rules find an argument by name.

PyTorch's builtins have no signature that Python can read, so it is written down here.  A followed
size that is given to any other function is arithmetic, and cannot be followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

EVERYWHERE = (
    "__getitem__(input, index)",
    "__setitem__(input, index, value)",
    "chunk(input, chunks, dim)",
    "dim(input)",
    "empty(*size)",
    "expand(input, *size)",
    "expand_as(input, other)",
    "flatten(input, start_dim, end_dim)",
    "movedim(input, source, destination)",
    "narrow(input, dim, start, length)",
    "new_empty(input, *size)",
    "new_ones(input, *size)",
    "new_zeros(input, *size)",
    "ones(*size)",
    "permute(input, *dims)",
    "rand(*size)",
    "randn(*size)",
    "repeat(input, *repeats)",
    "reshape(input, *size|shape)",
    "reshape_as(input, other)",
    "size(input, dim)",
    "split(input|tensor, split_size|split_size_or_sections, dim)",
    "split_with_sizes(input, split_size|split_sizes, dim)",
    "squeeze(input, *dim)",
    "tensor_split(input, indices_or_sections|indices|sections, dim)",
    "tile(input, *repeats|dims)",
    "transpose(input, dim0, dim1)",
    "unflatten(input, dim, sizes)",
    "unsqueeze(input, dim)",
    "view(input, *size)",
    "view_as(input, other)",
    "zeros(*size)",
)
"""Functions of ``torch``, methods of a tensor, and ATen operators called by name.

``a|b``: the same parameter under another name; ``*a``: one sequence, or as many arguments.
"""

FUNCTIONAL = (
    "adaptive_avg_pool1d(input, output_size)",
    "adaptive_avg_pool2d(input, output_size)",
    "adaptive_max_pool2d(input, output_size, return_indices)",
    "batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)",
    "conv1d(input, weight, bias, stride, padding, dilation, groups)",
    "conv2d(input, weight, bias, stride, padding, dilation, groups)",
    "conv3d(input, weight, bias, stride, padding, dilation, groups)",
    "conv_transpose1d(input, weight, bias, stride, padding, output_padding, groups, dilation)",
    "conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)",
    "conv_transpose3d(input, weight, bias, stride, padding, output_padding, groups, dilation)",
    "interpolate(input, output_size|size, scale_factor, mode, align_corners)",
    "layer_norm(input, normalized_shape, weight, bias, eps)",
    "pad(input, pad, mode, value)",
    "scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal)",
)
"""Functions of ``torch.nn.functional``."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a function in order, and the one that takes all further arguments."""

    names: tuple[str, ...]
    rest: str | None
    aliases: Mapping[str, str]

    @classmethod
    def parse(cls, parameters: str) -> Signature:
        """Read ``"input, *size|shape"``; operators call their first tensor ``self``."""
        names, rest, aliases = list[str](), None, {"self": "input"}
        for parameter in parameters.split(", "):
            name, *others = parameter.lstrip("*").split("|")
            aliases |= dict.fromkeys(others, name)
            if parameter.startswith("*"):
                rest = name
            else:
                names.append(name)
        return cls(tuple(names), rest, aliases)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments by name; one that was left out is missing."""
        bound = dict(zip(self.names, args, strict=False))
        further = args[len(self.names) :]
        if self.rest is not None and further:
            single = len(further) == 1 and isinstance(further[0], list | tuple)
            bound[self.rest] = further[0] if single else further
        for name, value in kwargs.items():
            bound[self.aliases.get(name, name)] = value
        return bound


def _signatures() -> dict[Any, Signature]:
    """Every form of every function that this torch has."""
    table = dict[Any, Signature]()
    for owners, rows in (((torch, Tensor, torch.ops.aten), EVERYWHERE), ((F,), FUNCTIONAL)):
        for row in rows:
            name, _, parameters = row.rstrip(")").partition("(")
            signature = Signature.parse(parameters)
            forms = (getattr(owner, name, None) for owner in owners)
            table |= {form: signature for form in forms if form is not None}
    return table


SIGNATURES = _signatures()
"""Torch function -> its parameters."""
