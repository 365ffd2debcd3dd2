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
    for module, path in first_paths(model).items():
        if type(module).__module__.startswith("torch.") and not isinstance(module, nn.Unflatten):
            continue
        attributes = module.__dict__
        numbers = [(n, v) for n, v in attributes.items() if type(v) in (int, tuple, list)]
        for name, value in numbers:
            attributes[name] = _tagged(f"{path}.{name}" if path else name, value, watcher)


def _tagged(name: str, value: Any, watcher: Watcher) -> Any:
    if type(value) is int:
        return _size(Variable(name, None, value), watcher)
    listed = type(value) in (tuple, list) and 0 < len(value) <= LONGEST
    if listed and all(type(entry) is int for entry in value):
        places = enumerate(value)
        return type(value)(_size(Variable(name, at, entry), watcher) for at, entry in places)
    return value


def _size(variable: Variable, watcher: Watcher) -> Size:
    return Size(variable.value, Terms(variables=((variable, _ONE),)), watcher)


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
