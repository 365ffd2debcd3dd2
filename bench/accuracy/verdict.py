"""What the tables say, in sentences, whoever it flatters."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.accuracy.grid import DENSE, METHODS, OURS, SHARES
from bench.accuracy.nets import NETWORKS
from bench.accuracy.results import Record

Means = Mapping[str, float]


def means(records: Sequence[Record], net: str, share: float) -> tuple[Means, list[int]]:
    """Percent after fine-tuning of every method, over the seeds that all of them have."""
    cell = [r for r in records if r["net"] == net and r["share"] == share and r["method"] != DENSE]
    seeds = {m: {r["seed"] for r in cell if r["method"] == m} for m in METHODS if m != DENSE}
    present = {method: found for method, found in seeds.items() if found}
    if not present:
        return {}, []
    shared = set.intersection(*present.values())
    return {
        method: 100 * statistics.mean(
            r["final"] for r in cell if r["method"] == method and r["seed"] in shared
        )
        for method in present if shared
    }, sorted(shared)  # fmt: skip


def verdict(records: Sequence[Record]) -> str:
    """Per network and share who is best, and in how many of them it is one of ours."""
    lines: list[str] = []
    won = total = 0
    for net in NETWORKS:
        for share in sorted(SHARES, reverse=True):
            found, seeds = means(records, net, share)
            if not set(found) & set(OURS) or not set(found) - set(OURS):
                continue
            total += 1
            ours, other = best(found, ours=True), best(found, ours=False)
            won += found[ours] >= found[other]
            lines.append(f"- {net}, {share:g}: {sentence(found, ours, other)} {basis(seeds)}")
    if not lines:
        return "Too little was run to compare anything."
    head = (
        f"After fine-tuning, one of our methods is best in {won} of {total} cells (network and "
        f"share), and {METHODS[overall(records)]} is the best of ours most often. "
        "Differences of less than about one percent are noise at this number of seeds."
    )
    return "\n".join([head, "", *lines])


def best(found: Means, *, ours: bool) -> str:
    """The best of ours, or of the others."""
    return max((m for m in found if (m in OURS) == ours), key=lambda method: found[method])


def sentence(found: Means, ours: str, other: str) -> str:
    """Who is ahead, by how much, and where our main method stands if it is not the best of ours."""
    ahead, behind = (ours, other) if found[ours] >= found[other] else (other, ours)
    gap = found[ahead] - found[behind]
    own = "" if ahead == ours else "**not ours**: "
    text = f"{own}{METHODS[ahead]} {found[ahead]:.1f}, {gap:.1f} ahead of {METHODS[behind]}"
    if "budget" in found and ours != "budget":
        text += f" (Budget {found['budget']:.1f})"
    return f"{text}."


def basis(seeds: Sequence[int]) -> str:
    """On how many seeds a sentence stands."""
    return f"({len(seeds)} seed{'s' if len(seeds) != 1 else ''})"


def overall(records: Sequence[Record]) -> str:
    """Which of ours is the best of ours in most cells."""
    leaders = [
        best(found, ours=True)
        for net in NETWORKS for share in SHARES
        if set(found := means(records, net, share)[0]) & set(OURS)
    ]  # fmt: skip
    return statistics.mode(leaders)
