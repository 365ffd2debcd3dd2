"""Tagged integers: sizes that the network's own code reads from shapes and computes with.

While a network is traced, ``x.shape[1]`` of a labelled tensor is a :class:`Size`, an ``int`` that
remembers which labels it counts.  It survives ``+ - * //``, so that when it arrives at ``view`` or
``split`` the rule knows how the number will follow a cut.  A plain ``int`` there is a constant
that somebody wrote down, and cannot follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gammaslim.labels import Terms

Escape = Callable[[Terms], None]


class Size(int):
    """An integer that counts labelled indices, and knows which."""

    terms: Terms
    escape: Escape

    def __new__(cls, value: int, terms: Terms, escape: Escape) -> Self:
        """Tag ``value``; ``escape`` is told when arithmetic leaves what can be followed."""
        size = super().__new__(cls, value)
        size.terms, size.escape = terms, escape
        return size

    def _with(self, value: int, terms: Terms) -> Size:
        return Size(value, terms, self.escape)

    def _plus(self, other: int, sign: int) -> Size:
        terms = other.terms if isinstance(other, Size) else Terms((), Fraction(int(other)))
        return self._with(
            int.__add__(self, sign * int(other)), self.terms.plus(terms.scaled(Fraction(sign)))
        )

    def _lost(self) -> None:
        self.escape(self.terms)

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
        """A multiple of the size; a product of two labelled sizes cannot be followed."""
        if not _whole(other):
            self._lost()
            return NotImplemented
        if isinstance(other, Size):
            self._lost()
            other._lost()
            return int(self) * int(other)
        return self._with(int(self) * other, self.terms.scaled(Fraction(other)))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        """A part of the size; exact only when it divides, otherwise it cannot be followed."""
        if _whole(other) and not isinstance(other, Size) and other > 0 and int(self) % other == 0:
            return self._with(int(self) // other, self.terms.scaled(Fraction(1, other)))
        self._lost()
        return int(self) // int(other)

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

    __hash__ = int.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        """A copy outlives the trace and is a plain integer."""
        return int.__int__(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Pickled as a plain integer."""
        return int, (int.__int__(self),)


def _whole(value: object) -> bool:
    return isinstance(value, int)


Given = int | Size | None
"""How the code gave a size: a constant, a followed size, or ``None`` (derived by the library)."""


@dataclass(slots=True)
class PythonCall:
    """The torch function that the network's code is calling, with its own arguments."""

    function: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """Plain name of the function, such as ``view`` or ``chunk``."""
        return getattr(self.function, "__name__", "")

    def integers(self) -> list[int]:
        """All integer arguments in order, tuples, lists and slices flattened."""
        return list(_integers((*self.args, *self.kwargs.values())))

    def given(self, values: Sequence[int]) -> list[Given]:
        """How each of the operator's sizes ``values`` was given in this call.

        The operator's list is looked for among the call's integers; ``-1`` and lists that the
        library computed itself come back as ``None``.
        """
        if self.function is F.multi_head_attention_forward:
            return list(values)
        if self.function is None:  # TorchScript or C++, whose sizes come as plain numbers
            return [None if value == -1 else value for value in values]
        present = self.integers()
        count = len(values)
        for start in range(len(present) - count + 1):
            window = present[start : start + count]
            if all(w in (v, -1) for w, v in zip(window, values, strict=True)):
                return [None if w == -1 else w for w in window]
        return list(values) if self.name in WRITES_SIZES else [None] * count

    def sizes(self) -> list[Size]:
        """The followed sizes among the arguments."""
        return [value for value in self.integers() if isinstance(value, Size)]


def _integers(values: Any) -> Iterator[int]:
    for value in values:
        if isinstance(value, bool | Tensor | str):
            continue
        if isinstance(value, int):
            yield value
        elif isinstance(value, tuple | list):
            yield from _integers(value)
        elif isinstance(value, slice):
            yield from _integers((value.start, value.stop, value.step))


NO_CALL = PythonCall(None)

FOLLOWS_SIZES = frozenset([
    "__getitem__", "__setitem__", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "batch_norm", "chunk", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "dim", "empty", "expand",
    "flatten", "interpolate", "layer_norm", "movedim", "narrow", "new_empty", "new_ones",
    "new_zeros", "ones", "pad", "permute", "rand", "randn", "repeat", "reshape", "size", "split",
    "split_with_sizes", "squeeze", "tensor_split", "tile", "transpose", "unflatten", "unsqueeze",
    "view", "zeros",
])  # fmt: skip
"""Torch functions in which a followed size is a size; anywhere else it is arithmetic."""

WRITES_SIZES = frozenset(["view", "reshape", "expand"])
"""Torch functions that hand on sizes as they are; other ones are those of ``torch.vmap``."""

COUNTS = frozenset(["numel", "nelement", "__len__"])
"""Torch functions whose result Python turns into a plain number, so that it cannot be followed."""

SHAPE_GETTERS = frozenset({Tensor.shape.__get__, Tensor.size, torch.Tensor.size})  # type: ignore[attr-defined]
