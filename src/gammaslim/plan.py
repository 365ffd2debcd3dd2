"""The plan: a frozen record of which indices of which tensor dimensions are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np

from gammaslim.errors import PlanError
from gammaslim.graph import IntArray, Site

VERSION = 1

AttributeValue = int | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which indices stay: ``kept[(tensor name, dim)]`` is a sorted 1-D integer array.

    Only sites that shrink are listed.  ``sizes`` holds the length of each listed dimension before
    the cut; ``attributes`` the new values of the modules' own numbers (``"conv.groups": 16``).
    """

    kept: Mapping[Site, IntArray]
    sizes: Mapping[Site, int]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])

    def __post_init__(self) -> None:
        """Refuse records that no cut could follow."""
        if set(self.kept) != set(self.sizes):
            raise PlanError("A plan needs one size for each kept site, and no others.")
        for site, indices in self.kept.items():
            _check_indices(site, indices, self.sizes[site])

    def __eq__(self, other: object) -> bool:
        """Equal when they keep the same indices of the same sites and set the same attributes."""
        if not isinstance(other, Plan):
            return NotImplemented
        return (
            dict(self.sizes) == dict(other.sizes)
            and dict(self.attributes) == dict(other.attributes)
            and all(np.array_equal(self.kept[site], other.kept[site]) for site in self.kept)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """A one-line summary."""
        gone = sum(self.sizes[site] - len(kept) for site, kept in self.kept.items())
        return f"Plan({len(self.kept)} sites shrink, {gone} slices go)"

    def then(self, later: Plan) -> Plan:
        """The single plan that does this one first and ``later`` on its result.

        ``later``'s indices count within what this plan keeps; the result counts in the original.
        """
        kept, sizes = dict(self.kept), dict(self.sizes)
        for site, indices in later.kept.items():
            earlier = self.kept.get(site)
            if earlier is None:
                kept[site], sizes[site] = indices, later.sizes[site]
                continue
            if len(earlier) != later.sizes[site]:
                raise PlanError(
                    f"The later plan expects {later.sizes[site]} indices in dimension {site[1]} "
                    f"of {site[0]!r}; the earlier one leaves {len(earlier)}."
                )
            kept[site] = earlier[indices]
        return Plan(kept, sizes, {**self.attributes, **later.attributes})

    def to_json(self) -> str:
        """The plan as JSON text; :meth:`from_json` reads it back."""
        sites = [
            {
                "tensor": name,
                "dim": dim,
                "size": self.sizes[(name, dim)],
                "kept": kept.tolist(),
            }
            for (name, dim), kept in sorted(self.kept.items())
        ]
        record = {"gammaslim_plan": VERSION, "sites": sites, "attributes": dict(self.attributes)}
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
        if record["gammaslim_plan"] != VERSION:
            raise PlanError(
                f"This plan has version {record['gammaslim_plan']!r}; this gammaslim reads "
                f"version {VERSION}. Install the gammaslim that wrote it."
            )
        try:
            return _from_record(record)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise PlanError(f"This plan is damaged: {error!r}.") from error


def _from_record(record: dict[str, Any]) -> Plan:
    kept: dict[Site, IntArray] = {}
    sizes: dict[Site, int] = {}
    for entry in record["sites"]:
        site = (str(entry["tensor"]), index(entry["dim"]))
        kept[site] = np.array([index(value) for value in entry["kept"]], dtype=np.int64)
        sizes[site] = index(entry["size"])
    attributes: dict[str, AttributeValue] = {
        str(name): tuple(index(v) for v in value) if isinstance(value, list) else index(value)
        for name, value in record["attributes"].items()
    }
    return Plan(kept, sizes, attributes)


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
