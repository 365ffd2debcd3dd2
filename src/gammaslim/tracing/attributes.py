"""Sizes that the network's own modules hold: integer attributes, tagged while it is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from torch import nn

from gammaslim.arrays import IntArray
from gammaslim.channels.records import SizeAttribute
from gammaslim.labels.equations import Terms, Variable
from gammaslim.network.modules import first_paths
from gammaslim.recording.sizes import Size, Watcher

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
