"""The plan: a frozen record of which indices of which tensor dimensions are kept."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from operator import index
from typing import Any

import numpy as np

from gammaslim.arrays import IntArray, Site, owner
from gammaslim.channels.flow import Remnant
from gammaslim.channels.sequences import unsorted
from gammaslim.errors import PlanError

VERSION = 3
READABLE = (1, 2, 3)
"""Version 1 knew no orders, version 2 neither inputs nor remnants."""

AttributeValue = int | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """What stays of one dimension: ``indices`` in the order of the cut tensor, of ``size`` before.

    They are sorted, unless the dimension lies behind a channel shuffle.
    """

    indices: IntArray
    size: int

    def __eq__(self, other: object) -> bool:
        """Equal when the same indices stay of as many, in the same order."""
        if not isinstance(other, Kept):
            return NotImplemented
        return self.size == other.size and np.array_equal(self.indices, other.indices)

    __hash__ = None  # type: ignore[assignment]

    @property
    def sorted(self) -> IntArray:
        """The indices in ascending order."""
        return np.sort(self.indices)

    @property
    def order(self) -> IntArray | None:
        """The permutation with ``sorted[order] = indices``; ``None`` where they are sorted."""
        return unsorted(self.indices)

    def holds_what(self, other: Kept) -> bool:
        """Whether the same indices stay of as many, in whatever order."""
        return self.size == other.size and np.array_equal(self.sorted, other.sorted)

    @cached_property
    def fault(self) -> str:
        """What keeps a cut from following it; empty if nothing does."""
        indices, size = self.indices, self.size
        if indices.ndim == 1 and 0 < len(indices) < size:
            ascending = indices if (np.diff(indices) > 0).all() else self.sorted
            if ascending[0] >= 0 and ascending[-1] < size and (np.diff(ascending) > 0).all():
                return ""
        return (
            f"must be a 1-D array of at least 1 and fewer than {size} distinct numbers in "
            f"0..{size - 1}; found {np.array2string(indices, threshold=8)}"
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Which indices stay: ``sites[(tensor name, dim)]`` says what is kept of that dimension.

    Only sites that shrink are listed.  ``attributes`` holds the new values of the modules' own
    numbers (``"conv.groups": 16``).  ``inputs`` lists the BatchNorms, by path, that read only some
    channels of what they are given (``trace(..., select_inputs=True)``): which indices of it, after
    the cut.  ``remnants`` lists the layers, by path, that leave the network, and what takes their
    places; nothing else of them is in the plan.

    The same by kind: ``kept`` holds the sorted indices of each site, ``sizes`` the length of each
    before the cut, and ``orders`` how slices stand behind a channel shuffle: slice ``i`` of the cut
    tensor is ``kept[orders[i]]`` of the uncut one.
    """

    sites: Mapping[Site, Kept] = field(default_factory=dict[Site, Kept])
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])
    inputs: Mapping[str, IntArray] = field(default_factory=dict[str, IntArray])
    remnants: Mapping[str, Remnant] = field(default_factory=dict[str, Remnant])

    def __post_init__(self) -> None:
        """Refuse records that no cut could follow."""
        for (name, dim), own in self.sites.items():
            if own.fault:
                raise PlanError(f"The kept indices of dimension {dim} of {name!r} {own.fault}.")
        for module, places in self.inputs.items():
            if places.ndim != 1 or not len(places) or int(places.min()) < 0:
                raise PlanError(
                    f"What {module!r} is to read of its input must be a 1-D array of at least one "
                    f"index, 0 or above; found {np.array2string(places, threshold=8)}."
                )

    @cached_property
    def kept(self) -> dict[Site, IntArray]:
        """Per site the indices that stay, sorted."""
        return {site: own.sorted for site, own in self.sites.items()}

    @cached_property
    def sizes(self) -> dict[Site, int]:
        """Per site how many indices there were."""
        return {site: own.size for site, own in self.sites.items()}

    @cached_property
    def orders(self) -> dict[Site, IntArray]:
        """Per site behind a shuffle the order of the sorted indices in the cut tensor."""
        found = {site: own.order for site, own in self.sites.items()}
        return {site: order for site, order in found.items() if order is not None}

    def indices(self, site: Site) -> IntArray:
        """The kept indices of a site, in the order of the cut tensor."""
        return self.sites[site].indices

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not (self.sites or self.remnants)

    def difference(self, other: Plan) -> str:
        """What this plan does first that another does not, in words; ``""`` if they are equal."""
        site = _differ(self.sites, other.sites)
        if site is not None:
            own, wanted = self.sites.get(site), other.sites.get(site)
            where = f"dimension {site[1]} of {site[0]!r}"
            if own is not None and wanted is not None and own.holds_what(wanted):
                return f"it puts the kept slices of {where} in another order"
            return f"it keeps other slices of {where}"
        places = [{m: own.tolist() for m, own in plan.inputs.items()} for plan in (self, other)]
        if (module := _differ(*places)) is not None:
            return f"it lets {module!r} read other indices of its input"
        if (path := _differ(self.remnants, other.remnants)) is not None:
            return f"it lets other layers leave, or otherwise, first {path!r}"
        if (name := _differ(self.attributes, other.attributes)) is not None:
            own, wanted = self.attributes.get(name), other.attributes.get(name)
            right = "what it was" if wanted is None else wanted
            given = "what it was" if own is None else own
            return f"it sets the size attribute {name!r} to {given}, where {right} is right"
        return ""

    def __eq__(self, other: object) -> bool:
        """Equal when they keep the same indices of the same sites and set the same attributes."""
        return not self.difference(other) if isinstance(other, Plan) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """A one-line summary."""
        gone = sum(own.size - len(own.indices) for own in self.sites.values())
        left = f", {len(self.remnants)} layers leave" if self.remnants else ""
        return f"Plan({len(self.sites)} sites shrink, {gone} slices go{left})"

    # Of 6 slices the earlier plan keeps 5, 1 and 4, in this order; the later one, made for the
    # cut network, keeps 0 and 2 of those three: in the original these are 5 and 4.
    def then(self, later: Plan) -> Plan:
        """The single plan that does this one first and ``later`` on its result.

        ``later``'s indices count within what this plan keeps; the result counts in the original.
        """
        mine = self.without(later.remnants)
        sites = {**later.sites, **mine.sites}
        for site, own in later.sites.items():
            if (earlier := mine.sites.get(site)) is None:
                continue
            if len(earlier.indices) != own.size:
                raise PlanError(
                    f"The later plan expects {own.size} indices in dimension {site[1]} "
                    f"of {site[0]!r}; the earlier one leaves {len(earlier.indices)}."
                )
            sites[site] = Kept(earlier.indices[own.indices], earlier.size)
        return Plan(
            sites,
            {**mine.attributes, **later.attributes},
            {**mine.inputs, **later.inputs},
            {**mine.remnants, **later.remnants},
        )

    def renamed(self, move: Callable[[str], str | None]) -> Plan:
        """The plan with every module at the path that ``move`` gives it; less those at ``None``."""

        def name(old: str) -> str | None:
            path = move(owner(old))
            return None if path is None else f"{path}.{old.rpartition('.')[2]}".removeprefix(".")

        sites = {(n, s[1]): own for s, own in self.sites.items() if (n := name(s[0])) is not None}
        attributes = {n: v for old, v in self.attributes.items() if (n := name(old)) is not None}
        inputs = {p: own for old, own in self.inputs.items() if (p := move(old)) is not None}
        remnants = {p: own for old, own in self.remnants.items() if (p := move(old)) is not None}
        return Plan(sites, attributes, inputs, remnants)

    def without(self, layers: Collection[str]) -> Plan:
        """The plan less all that it says of these layers, by path."""
        return self.renamed(lambda path: None if path in layers else path) if layers else self

    def by_module(self) -> dict[str, Plan]:
        """The plan in parts: for each module, by path, what it says of that one's own tensors.

        A part names things as the module itself does: ``"weight"``, and ``""`` for the module.
        """
        parts: dict[str, tuple[Any, Any, Any, Any]] = defaultdict(lambda: ({}, {}, {}, {}))
        for (name, dim), own in self.sites.items():
            parts[owner(name)][0][(name.rpartition(".")[2], dim)] = own
        for name, value in self.attributes.items():
            parts[owner(name)][1][name.rpartition(".")[2]] = value
        for path, places in self.inputs.items():
            parts[path][2][""] = places
        for path, remnant in self.remnants.items():
            parts[path][3][""] = remnant
        return {path: Plan(*own) for path, own in parts.items()}

    def to_json(self) -> str:
        """The plan as JSON text; :meth:`from_json` reads it back."""
        sites: list[dict[str, Any]] = []
        for (name, dim), own in sorted(self.sites.items(), key=lambda entry: entry[0]):
            entry = {"tensor": name, "dim": dim, "size": own.size, "kept": own.sorted.tolist()}
            sites.append(entry if own.order is None else {**entry, "order": own.order.tolist()})
        record = {
            "gammaslim_plan": VERSION,
            "sites": sites,
            "attributes": dict(self.attributes),
            "inputs": {module: places.tolist() for module, places in sorted(self.inputs.items())},
            "remnants": {path: asdict(own) for path, own in sorted(self.remnants.items())},
        }
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: the text is not JSON, not a plan, of an unknown version, or inconsistent.
        """
        try:
            record: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"A plan must be JSON text; found {text[:40]!r} ({error}).") from error
        if not isinstance(record, dict) or "gammaslim_plan" not in record:
            raise PlanError("This JSON is not a plan: it has no 'gammaslim_plan' version.")
        if record["gammaslim_plan"] not in READABLE:
            raise PlanError(
                f"This plan has version {record['gammaslim_plan']!r}; this gammaslim reads "
                f"versions up to {VERSION}. Install the gammaslim that wrote it."
            )
        try:
            return _from_record(record)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise PlanError(f"This plan is damaged: {error!r}.") from error


def _differ(mine: Mapping[Any, Any], others: Mapping[Any, Any]) -> Any:
    """The first key, in order, under which two mappings hold different values."""
    return next((k for k in sorted({*mine, *others}) if mine.get(k) != others.get(k)), None)


def _from_record(record: dict[str, Any]) -> Plan:
    sites: dict[Site, Kept] = {}
    for entry in record["sites"]:
        site = (str(entry["tensor"]), index(entry["dim"]))
        kept = _integers(entry["kept"])
        order = _integers(entry["order"]) if "order" in entry else np.arange(len(kept))
        size = index(entry["size"])
        if kept.ndim != 1 or (np.diff(kept) <= 0).any():
            raise PlanError(
                f"The kept indices of dimension {site[1]} of {site[0]!r} must be a sorted 1-D "
                f"array of at least 1 and fewer than {size} distinct numbers in 0..{size - 1}; "
                f"found {np.array2string(kept, threshold=8)}."
            )
        if not np.array_equal(np.sort(order), np.arange(len(kept))):
            raise PlanError(
                f"The order of dimension {site[1]} of {site[0]!r} must hold each number in "
                f"0..{len(kept) - 1} once; found {np.array2string(order, threshold=8)}."
            )
        sites[site] = Kept(kept[order], size)
    attributes: dict[str, AttributeValue] = {
        str(name): tuple(index(v) for v in value) if isinstance(value, list) else index(value)
        for name, value in record["attributes"].items()
    }
    inputs = {str(m): _integers(own) for m, own in record.get("inputs", {}).items()}
    remnants = {str(p): Remnant.of(own) for p, own in record.get("remnants", {}).items()}
    return Plan(sites, attributes, inputs, remnants)


def _integers(values: list[Any]) -> IntArray:
    return np.array([index(value) for value in values], dtype=np.int64)
