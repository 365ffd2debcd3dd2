"""Tagged integers: sizes that the network's own code reads from shapes or holds in its modules.

While a network is traced, ``x.shape[1]`` of a labelled tensor is a :class:`Size`, an ``int`` that
remembers which labels it counts, and so is ``self.width``, which remembers where it is held.  It
survives ``+ - * //``, so that when it arrives at ``view`` or
``split`` the rule knows how the number will follow a cut.  A plain ``int`` there is a constant
that somebody wrote down, and cannot follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gammaslim.labels import Terms, Variable
from gammaslim.network import caller_of
from gammaslim.recording.signatures import SIGNATURES


class Watcher(Protocol):
    """Who is told what the network's code does with a followed size.

    ``live``: the network is still running.  A size may outlive that in a cache of the user's code,
    and is a plain integer from then on.
    """

    live: bool

    def escaped(self, terms: Terms) -> None:
        """It left what can be followed: nothing that it depends on may change."""
        ...

    def counted_parts(self, terms: Terms) -> None:
        """It is a number of equal parts, of which none goes."""
        ...

    def equated(self, difference: Terms) -> None:
        """The code found two sizes equal, and must always do so."""
        ...

    def is_pinned(self, variable: Variable) -> bool:
        """Whether this number of a module is known to keep its value."""
        ...


class Size(int):
    """An integer that counts labelled indices or is held by a module, and knows which."""

    terms: Terms
    watcher: Watcher

    def __new__(cls, value: int, terms: Terms, watcher: Watcher) -> Self:
        """Tag ``value``; ``watcher`` is told when arithmetic leaves what can be followed."""
        size = super().__new__(cls, value)
        size.terms, size.watcher = terms, watcher
        return size

    @property
    def attribute(self) -> bool:
        """Whether it comes from numbers that modules hold, and from no tensor's shape."""
        return not self.terms.parts

    @property
    def constant(self) -> bool:
        """Whether it is known to keep its value, as far as the network has run."""
        watcher = self.watcher
        return self.attribute and all(watcher.is_pinned(v) for v, _ in self.terms.variables)

    def _with(self, value: int, terms: Terms) -> Size:
        return Size(value, terms, self.watcher)

    def _plus(self, other: int, sign: int) -> Size:
        terms = self.terms.plus(_terms(other).scaled(Fraction(sign)))
        return self._with(int.__add__(self, sign * int(other)), terms)

    def _lost(self) -> None:
        if self.watcher.live:
            self.watcher.escaped(self.terms)

    def __add__(self, other: int) -> int:
        """Sum of two sizes."""
        return self._plus(other, 1) if _whole(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: int) -> int:
        """Difference of two sizes."""
        return self._plus(other, -1) if _whole(other) else NotImplemented

    def __rsub__(self, other: int) -> int:
        """Difference of two sizes."""
        return (-self)._plus(other, 1) if _whole(other) else NotImplemented

    def __neg__(self) -> Size:
        """The negative size, as in a slice from the end."""
        return self._with(-int(self), self.terms.scaled(Fraction(-1)))

    def __mul__(self, other: int) -> int:
        """A multiple of the size; of two attributes the smaller counts equal parts."""
        if not _whole(other):
            self._lost()
            return NotImplemented
        if not isinstance(other, Size):
            return self._with(int(self) * other, self.terms.scaled(Fraction(other)))
        attributes = [size for size in (self, other) if size.attribute]
        if not attributes:
            self._lost()
            other._lost()
            return int(self) * int(other)
        factor = min(attributes, key=lambda size: (not size.constant, int(size)))
        self.watcher.counted_parts(factor.terms)
        size = other if factor is self else self
        return self._with(int(self) * int(other), size.terms.scaled(Fraction(int(factor))))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        """A part of the size; exact only when it divides, otherwise it cannot be followed."""
        if isinstance(other, Size) and other.attribute:
            self.watcher.counted_parts(other.terms)
            other = int(other)
        if _whole(other) and not isinstance(other, Size) and other > 0 and int(self) % other == 0:
            return self._with(int(self) // other, self.terms.scaled(Fraction(1, other)))
        self._lost()
        if isinstance(other, Size):
            other._lost()
        return int(self) // int(other)

    def __rfloordiv__(self, other: int) -> int:
        """A constant divided by a size cannot follow a cut."""
        self._lost()
        return other // int(self)

    def __mod__(self, other: int) -> int:
        """Remainder: used in checks, and taken to stay as it is."""
        return int(self) % int(other)

    def __truediv__(self, other: float) -> float:
        """A float made of a size cannot follow a cut."""
        self._lost()
        return int(self) / other

    def __rtruediv__(self, other: float) -> float:
        """A float made of a size cannot follow a cut."""
        self._lost()
        return other / int(self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        """A power of a size cannot follow a cut."""
        self._lost()
        return int(self) ** other

    def __float__(self) -> float:
        """A float made of a size cannot follow a cut."""
        self._lost()
        return float(int.__int__(self))

    def __eq__(self, other: object) -> bool:
        """Equal sizes must stay equal, because the network's code may go by it."""
        equal = int.__eq__(self, other) is True
        # What PyTorch's or our own code compares, nothing goes by that could change.
        asked = equal and self.watcher.live and not caller_of(__name__).startswith(_LIBRARIES)
        if asked and isinstance(other, int):
            self.watcher.equated(self.terms.minus(_terms(other)))
        return equal

    def __ne__(self, other: object) -> bool:
        """The opposite of equal."""
        return not self == other

    __hash__ = int.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        """A copy outlives the trace and is a plain integer."""
        return int.__int__(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Pickled as a plain integer."""
        return int, (int.__int__(self),)


def _terms(value: int) -> Terms:
    if isinstance(value, Size) and value.watcher.live:
        return value.terms
    return Terms(constant=Fraction(int(value)))


_LIBRARIES = ("torch.", "gammaslim.")


def _whole(value: object) -> bool:
    return isinstance(value, int)


Given = int | Size | None
"""How the code gave a size: a constant, a followed size, or ``None`` (derived by the library)."""


@dataclass(slots=True)
class PythonCall:
    """The torch function that the network's code is calling, with its own arguments by name.

    ``function`` is ``None`` in TorchScript and C++, whose calls of torch functions nobody sees.
    """

    function: Any
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> PythonCall:
        """Bind the arguments; those of a function that takes no sizes are left out."""
        signature = SIGNATURES.get(function)
        return cls(function, {} if signature is None else signature.bind(args, kwargs))

    def written(self, name: str) -> Any:
        """The argument as the network's code wrote it; ``None`` where there is none."""
        return _present(self.arguments.get(name))

    def given(self, name: str, values: Sequence[int]) -> list[Given]:
        """How the code gave each of the operator's sizes ``values``, as its argument ``name``.

        ``-1``, and sizes that the library computed itself, come back as ``None``.
        """
        if self.function is F.multi_head_attention_forward:
            return list(values)
        if self.function is None:  # its sizes come as plain numbers
            return [None if value == -1 else value for value in values]
        if name not in self.arguments:
            return [None] * len(values)
        written = self.written(name)
        sizes = list(written) if isinstance(written, tuple | list) else [written]
        lead = len(values) - len(sizes)  # dimensions that torch.vmap or torch.tile put in front
        return [*values[:lead], *(None if size == -1 else size for size in sizes)]


def followed(values: Iterable[Any]) -> Iterator[Size]:
    """The followed sizes among ``values``, with those in tuples, lists and slices."""
    for value in values:
        if isinstance(value, Size):
            if value.watcher.live:
                yield value
        elif isinstance(value, tuple | list):
            yield from followed(value)
        elif isinstance(value, slice):
            yield from followed((value.start, value.stop, value.step))


def _present(value: Any) -> Any:
    """A size that a cache kept from another trace is a plain integer."""
    if isinstance(value, Size):
        return value if value.watcher.live else int(value)
    if isinstance(value, tuple | list):
        present = [_present(each) for each in value]
        return present if isinstance(value, list) else tuple(present)
    if isinstance(value, slice):
        return slice(*map(_present, (value.start, value.stop, value.step)))
    return value


NO_CALL = PythonCall(None, {})

COUNTS = frozenset(["numel", "nelement", "__len__"])
"""Torch functions whose result Python turns into a plain number, so that it cannot be followed."""

SHAPE_GETTERS = frozenset({Tensor.shape.__get__, Tensor.size, torch.Tensor.size})  # type: ignore[attr-defined]
