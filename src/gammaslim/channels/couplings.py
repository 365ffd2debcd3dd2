"""Why channels are tied: every coupling of two slices, and the operator that made it.

While a network is traced, slices carry labels, and operators couple these.  A channel is what hangs
together in the end; here is what it hangs together by.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np

from gammaslim.arrays import FIXED, BoolArray, IntArray, Site
from gammaslim.errors import SiteError

Slice = tuple[str, int, int]
"""A tensor's name, one of its dimensions, and an index there."""


@dataclass(frozen=True)
class Reason:
    """Why indices are fixed, or coupled: the sentence, the operator, the module, the user's line.

    A coupling has a sentence only where the operator's name does not tell all.
    """

    text: str
    operator: str = ""
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        """One line for a report."""
        place = self.operator or self.text
        place += f" in {self.module}" if self.module else ""
        place += f" ({short_source(self.source)})" if self.source else ""
        return f"{place}: {self.text}" if self.operator and self.text else place


def short_source(source: str) -> str:
    """``file:line`` as Python's search path or the working directory sees it."""
    roots = [place.rstrip(os.sep) + os.sep for place in (*sys.path, str(Path.cwd())) if place]
    return min(map(source.removeprefix, roots), key=len, default=source)


@dataclass(frozen=True)
class Link:
    """One operator that couples, and the slice that it leads to (``None``: of no named tensor)."""

    reason: Reason
    to: Slice | None


@dataclass(frozen=True)
class Tie:
    """The shortest chain of operators that ties two slices, ``first`` and where it leads.

    It prints as one line for every slice and operator on the way.  ``untied`` says in words why
    there is none.
    """

    first: Slice | None = None
    links: tuple[Link, ...] = ()
    untied: str = ""

    @property
    def tied(self) -> bool:
        """Whether the two live or die together."""
        return self.first is not None

    @property
    def line(self) -> str:
        """The same in one line: the two slices, and the operators between them."""
        if self.first is None or not self.links:
            return str(self)
        ends = [written(end) for end in (self.first, self.links[-1].to) if end is not None]
        return f"{' is tied to '.join(ends)} {through(self.links)}"

    def __str__(self) -> str:
        """One line for each slice and operator."""
        lines = [self.untied if self.first is None else written(self.first)]
        for link in self.links:
            lines.append(f"  {link.reason}")
            lines += [] if link.to is None else [written(link.to)]
        return "\n".join(lines)


def written(place: tuple[str, int, object]) -> str:
    """A slice as one would write it in Python: ``("fc.weight", 1, 3)`` is ``fc.weight[:, 3]``."""
    name, dim, index = place
    return f"{name}[{':, ' * dim}{index}]"


def through(links: Sequence[Link]) -> str:
    """The operators of a chain in one line: all of a short one, the ends of a long one."""
    if not links:
        return ""
    first, *more = [str(link.reason) for link in links]
    if len(more) > 1:
        more = [f"{len(more) - 1} more", more[-1]]
    return "by " + ", then ".join([first, *more])


@dataclass(frozen=True)
class Asked:
    """A dimension that somebody asks for, with its channel ids, and one index or any."""

    site: Site
    ids: IntArray
    index: int | None

    @property
    def indices(self) -> IntArray:
        """Those that are asked for and belong to a channel."""
        own = np.arange(len(self.ids)) if self.index is None else np.array([self.index])
        return own[self.ids[own] >= 0]

    def __str__(self) -> str:
        """As one would write it in Python."""
        return written((*self.site, ":" if self.index is None else self.index))


def asked(
    shapes: Mapping[str, tuple[int, ...]],
    sites: Mapping[Site, IntArray],
    aliases: Mapping[str, str],
    wanted: object,
) -> Asked:
    """What somebody asks for, if it is there.

    Raises:
        SiteError: this is no slice, or there is no such tensor, dimension or index.
    """
    match wanted:
        case (str(named), int() | np.integer() as dim):
            name, dim, index = aliases.get(named, named), int(dim), None
        case (str(named), int() | np.integer() as dim, int() | np.integer() as place):
            name, dim, index = aliases.get(named, named), int(dim), int(place)
        case _:
            raise SiteError(
                "A slice is asked for as (tensor name, dimension) or (tensor name, dimension, "
                f"index), such as ('layer1.0.bn2.weight', 0, 3); found {wanted!r}."
            )
    shape = shapes.get(name)
    if shape is None:
        close = get_close_matches(name, shapes, n=3)
        hint = f"Is it {' or '.join(map(repr, close))}? " if close else ""
        raise SiteError(
            f"There is no tensor {name!r} in this graph. {hint}Names are those of state_dict()."
        )
    if not 0 <= dim < len(shape):
        raise SiteError(
            f"{name!r} has the shape {list(shape)} and so no dimension {dim}. Count from 0."
        )
    if index is not None and not 0 <= index < shape[dim]:
        raise SiteError(
            f"Dimension {dim} of {name!r} has {shape[dim]} indices and so none that is {index}. "
            "Count from 0."
        )
    fixed = np.full(shape[dim], FIXED, dtype=np.int64)
    return Asked((name, dim), sites.get((name, dim), fixed), index)


@dataclass(frozen=True, eq=False)
class Couplings:
    """All couplings of labels, compactly, and where each label lies.

    A row ``(l, r, n, w)`` of ``runs`` couples the labels ``l + i`` and ``r + i`` for ``0 <= i < n``
    for the reason with number ``w``.  ``spans`` holds the labels of each dimension as it was
    traced; ``kept`` which of its indices are left after a cut, in order.
    """

    runs: IntArray = field(default_factory=lambda: np.empty((0, 4), dtype=np.int64))
    spans: Mapping[Site, range] = field(default_factory=dict[Site, range])
    reasons: tuple[Reason, ...] = ()
    kept: Mapping[Site, IntArray] = field(default_factory=dict[Site, IntArray])

    def tie(self, first: Asked, second: Asked) -> Tie:
        """What ties two slices, or the first pair of slices of two dimensions that are tied."""
        left, right = first.indices, second.indices
        met = np.flatnonzero(np.isin(first.ids[left], second.ids[right]))
        for asked, found in ((first, left), (second, right)):
            if not len(found):
                return Tie(untied=f"{asked} belongs to no channel: nothing of it can go.")
        if not len(met):
            return Tie(untied=f"{first} and {second} are not tied: no channel has slices of both.")
        one = int(left[met[0]])
        other = int(right[np.flatnonzero(second.ids[right] == first.ids[one])[0]])
        start, end = (*first.site, one), (*second.site, other)
        chain = self.ways(np.array([self.label(end)]))
        return Tie(start, chain(self.label(start)))

    def ways(
        self, to: IntArray, among: BoolArray | None = None
    ) -> Callable[[int], tuple[Link, ...]]:
        """From any label the shortest chain to one of the labels ``to``, by the runs ``among``."""
        left, right, reasons = _edges(self.runs if among is None else self.runs[among])
        count = max(span.stop for span in self.spans.values())
        count = max(count, *(int(ends.max(initial=-1)) + 1 for ends in (left, right)))
        nearer = _nearer(left, right, to, count)

        def chain(label: int) -> tuple[Link, ...]:
            links: list[Link] = []
            while (edge := int(nearer[label])) >= 0:
                label = int(left[edge] + right[edge]) - label  # the other end
                links.append(Link(self.reasons[reasons[edge]], self._slice(label)))
            return tuple(links)

        return chain

    def left(self, survivors: Mapping[Site, IntArray]) -> Couplings:
        """What is known after a cut that leaves these indices of the dimensions that shrink."""
        now = {s: self.kept[s][own] if s in self.kept else own for s, own in survivors.items()}
        return replace(self, kept={**self.kept, **now})

    def label(self, place: Slice) -> int:
        """The label of a slice."""
        name, dim, index = place
        span = self.spans.get((name, dim))
        if span is None:
            raise SiteError(
                f"Nothing is known of what ties dimension {dim} of {name!r}: it was not there when "
                "the network was traced. Trace the network again."
            )
        kept = self.kept.get((name, dim))
        return span[index if kept is None else int(kept[index])]

    @cached_property
    def _starts(self) -> tuple[IntArray, list[Site]]:
        sites = sorted(self.spans, key=lambda site: self.spans[site].start)
        return np.array([self.spans[site].start for site in sites]), sites

    def _slice(self, label: int) -> Slice | None:
        """The slice of a named tensor that has this label."""
        starts, sites = self._starts
        site = sites[int(np.searchsorted(starts, label, side="right")) - 1]
        if label not in self.spans[site]:
            return None
        index = label - self.spans[site].start
        if site in self.kept:  # one channel's slices all stay, so it is there
            index = int(np.flatnonzero(self.kept[site] == index)[0])
        return (*site, index)


def _edges(runs: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Every coupling by itself: two labels, and the number of the reason."""
    left, right, length, reason = runs.T
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return (
        np.repeat(left, length) + within,
        np.repeat(right, length) + within,
        np.repeat(reason, length),
    )


# Edges 0: (1, 2), 1: (2, 3), 2: (1, 4), 3: (4, 3) and ``to`` = [3].  First 3 is reached; edges 1
# and 3 have one end in it, so 2 goes by edge 1 and 4 by edge 3.  Then edges 0 and 2 do, both lead
# on to 1, and the first said is taken: 1 goes by edge 0.  Then no edge has one end only.
def _nearer(left: IntArray, right: IntArray, to: IntArray, count: int) -> IntArray:
    """Breadth first: per label the edge that leads one step nearer to ``to``, or -1."""
    edge = np.full(count, -1, dtype=np.int64)
    reached = np.zeros(count, dtype=np.bool_)
    reached[to] = True
    waiting = np.arange(len(left))
    while True:
        ends = reached[left[waiting]], reached[right[waiting]]
        step = waiting[ends[0] != ends[1]][::-1]  # of several the first is written last
        if not len(step):
            return edge
        waiting = waiting[~(ends[0] & ends[1])]
        new = np.where(reached[left[step]], right[step], left[step])
        edge[new] = step
        reached[new] = True
