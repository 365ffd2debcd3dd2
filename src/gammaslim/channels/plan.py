"""The plan: a frozen record of which indices of which tensor dimensions are kept."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
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
class Plan:
    """Which indices stay: ``kept[(tensor name, dim)]`` is a sorted 1-D integer array.

    Only sites that shrink are listed.  ``sizes`` holds the length of each listed dimension before
    the cut; ``attributes`` the new values of the modules' own numbers (``"conv.groups": 16``).
    ``orders`` lists the sites behind a channel shuffle whose kept slices must stand in another
    order than sorted: slice ``i`` of the cut tensor is ``kept[orders[i]]`` of the uncut one.
    ``inputs`` lists the BatchNorms, by path, that read only some channels of what they are given
    (``trace(..., select_inputs=True)``): which indices of it, after the cut.  ``remnants`` lists
    the layers, by path, that leave the network, and what takes their places; nothing else of them
    is in the plan.
    """

    kept: Mapping[Site, IntArray]
    sizes: Mapping[Site, int]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])
    orders: Mapping[Site, IntArray] = field(default_factory=dict[Site, IntArray])
    inputs: Mapping[str, IntArray] = field(default_factory=dict[str, IntArray])
    remnants: Mapping[str, Remnant] = field(default_factory=dict[str, Remnant])

    def __post_init__(self) -> None:
        """Refuse records that no cut could follow."""
        if set(self.kept) != set(self.sizes):
            raise PlanError("A plan needs one size for each kept site, and no others.")
        for site, indices in self.kept.items():
            _check_indices(site, indices, self.sizes[site])
        for site, order in self.orders.items():
            _check_order(site, order, len(self.kept.get(site, ())))
        for module, places in self.inputs.items():
            _check_inputs(module, places)

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not (self.kept or self.remnants)

    def indices(self, site: Site) -> IntArray:
        """The kept indices of a site, in the order of the cut tensor."""
        order = self.orders.get(site)
        return self.kept[site] if order is None else self.kept[site][order]

    def __eq__(self, other: object) -> bool:
        """Equal when they keep the same indices of the same sites and set the same attributes."""
        if not isinstance(other, Plan):
            return NotImplemented
        return (
            dict(self.sizes) == dict(other.sizes)
            and dict(self.attributes) == dict(other.attributes)
            and set(self.orders) == set(other.orders)
            and dict(self.remnants) == dict(other.remnants)
            and set(self.inputs) == set(other.inputs)
            and all(np.array_equal(self.indices(s), other.indices(s)) for s in self.kept)
            and all(np.array_equal(own, other.inputs[m]) for m, own in self.inputs.items())
        )

    def difference(self, other: Plan) -> str:
        """How this plan differs from another, in a sentence; ``""`` where they are equal."""
        if self == other:
            return ""
        for site in sorted({*self.kept, *other.kept}):
            found, wanted = self.kept.get(site), other.kept.get(site)
            if found is None or wanted is None or not np.array_equal(found, wanted):
                return (
                    "it keeps some slices of a channel and removes others, first seen at "
                    f"dimension {site[1]} of {site[0]!r}."
                )
            if not np.array_equal(self.indices(site), other.indices(site)):
                return (
                    f"it puts the kept slices of dimension {site[1]} of {site[0]!r} in another "
                    "order than the shuffles ask for."
                )
        for module in sorted({*self.inputs, *other.inputs}):
            if not np.array_equal(self.inputs.get(module, ()), other.inputs.get(module, ())):
                return f"it lets {module!r} read other indices of its input."
        if dict(self.remnants) != dict(other.remnants):
            return "it lets other layers leave than those that serve nothing."
        return "it sets other size attributes."

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """A one-line summary."""
        gone = sum(self.sizes[site] - len(kept) for site, kept in self.kept.items())
        left = f", {len(self.remnants)} layers leave" if self.remnants else ""
        return f"Plan({len(self.kept)} sites shrink, {gone} slices go{left})"

    def then(self, later: Plan) -> Plan:
        """The single plan that does this one first and ``later`` on its result.

        ``later``'s indices count within what this plan keeps; the result counts in the original.
        """
        mine = self.without(later.remnants)
        stays = {site: mine.indices(site) for site in mine.kept}
        sizes = {**later.sizes, **mine.sizes}
        for site in later.kept:
            indices = later.indices(site)
            earlier = stays.get(site)
            if earlier is not None and len(earlier) != later.sizes[site]:
                raise PlanError(
                    f"The later plan expects {later.sizes[site]} indices in dimension {site[1]} "
                    f"of {site[0]!r}; the earlier one leaves {len(earlier)}."
                )
            stays[site] = indices if earlier is None else earlier[indices]
        whole = arranged_plan(stays, sizes)
        return replace(
            whole,
            attributes={**mine.attributes, **later.attributes},
            inputs={**mine.inputs, **later.inputs},
            remnants={**mine.remnants, **later.remnants},
        )

    def without(self, layers: Collection[str]) -> Plan:
        """The plan less all that it says of these layers, by path."""
        if not layers:
            return self

        def stays(name: str) -> bool:
            return owner(name) not in layers

        return Plan(
            {site: own for site, own in self.kept.items() if stays(site[0])},
            {site: size for site, size in self.sizes.items() if stays(site[0])},
            {name: value for name, value in self.attributes.items() if stays(name)},
            {site: own for site, own in self.orders.items() if stays(site[0])},
            {path: own for path, own in self.inputs.items() if path not in layers},
            {path: own for path, own in self.remnants.items() if path not in layers},
        )

    def to_json(self) -> str:
        """The plan as JSON text; :meth:`from_json` reads it back."""
        sites = [
            {
                "tensor": name,
                "dim": dim,
                "size": self.sizes[(name, dim)],
                "kept": kept.tolist(),
                **self._order_entry((name, dim)),
            }
            for (name, dim), kept in sorted(self.kept.items())
        ]
        record = {
            "gammaslim_plan": VERSION,
            "sites": sites,
            "attributes": dict(self.attributes),
            "inputs": {module: places.tolist() for module, places in sorted(self.inputs.items())},
            "remnants": {path: asdict(own) for path, own in sorted(self.remnants.items())},
        }
        return json.dumps(record, separators=(",", ":"))

    def _order_entry(self, site: Site) -> dict[str, list[int]]:
        return {"order": self.orders[site].tolist()} if site in self.orders else {}

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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise PlanError(f"This plan is damaged: {error!r}.") from error


def _from_record(record: dict[str, Any]) -> Plan:
    kept: dict[Site, IntArray] = {}
    sizes: dict[Site, int] = {}
    orders: dict[Site, IntArray] = {}
    for entry in record["sites"]:
        site = (str(entry["tensor"]), index(entry["dim"]))
        kept[site] = _integers(entry["kept"])
        sizes[site] = index(entry["size"])
        if "order" in entry:
            orders[site] = _integers(entry["order"])
    attributes: dict[str, AttributeValue] = {
        str(name): tuple(index(v) for v in value) if isinstance(value, list) else index(value)
        for name, value in record["attributes"].items()
    }
    inputs = {str(m): _integers(own) for m, own in record.get("inputs", {}).items()}
    remnants = {str(p): _remnant(own) for p, own in record.get("remnants", {}).items()}
    return Plan(kept, sizes, attributes, orders, inputs, remnants)


def _remnant(entry: dict[str, Any]) -> Remnant:
    window = entry["window"]
    if window is not None:
        window = tuple((index(e), index(s), index(p)) for e, s, p in window)
    return Remnant(
        index(entry["width"]),
        bool(entry["told"]),
        index(entry["dim"]),
        window,
        bool(entry["written"]),
        bool(entry["void"]),
    )


def _integers(values: list[Any]) -> IntArray:
    return np.array([index(value) for value in values], dtype=np.int64)


def arranged_plan(
    stays: Mapping[Site, IntArray],
    sizes: Mapping[Site, int],
) -> Plan:
    """The plan of which ``stays`` holds the kept indices, in the order of the cut tensors."""
    orders = {site: unsorted(indices) for site, indices in stays.items()}
    return Plan(
        {site: np.sort(indices) for site, indices in stays.items()},
        sizes,
        orders={site: order for site, order in orders.items() if order is not None},
    )


def _check_order(site: Site, order: IntArray, length: int) -> None:
    if not np.array_equal(np.sort(order), np.arange(length)):
        raise PlanError(
            f"The order of dimension {site[1]} of {site[0]!r} must hold each number in "
            f"0..{length - 1} once; found {np.array2string(order, threshold=8)}."
        )


def _check_inputs(module: str, places: IntArray) -> None:
    if places.ndim != 1 or not len(places) or int(places.min()) < 0:
        raise PlanError(
            f"What {module!r} is to read of its input must be a 1-D array of at least one index, "
            f"0 or above; found {np.array2string(places, threshold=8)}."
        )


def _check_indices(site: Site, indices: IntArray, size: int) -> None:
    good = (
        indices.ndim == 1
        and 0 < len(indices) < size
        and int(indices[0]) >= 0
        and int(indices[-1]) < size
        and bool((np.diff(indices) > 0).all())
    )
    if not good:
        raise PlanError(
            f"The kept indices of dimension {site[1]} of {site[0]!r} must be a sorted 1-D array "
            f"of at least 1 and fewer than {size} distinct numbers in 0..{size - 1}; found "
            f"{np.array2string(indices, threshold=8)}."
        )
