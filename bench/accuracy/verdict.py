"""What the tables say, in sentences, whoever it flatters."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.accuracy.grid import DENSE, LATE, METHODS, OURS, SHARES
from bench.accuracy.nets import NETWORKS
from bench.accuracy.results import Record

LEVEL = 1.0
"""Differences of fewer percent are no differences, with as few seeds and pictures as here."""

WORDS = ("ahead", "level", "behind")


@dataclass(frozen=True)
class Cell:
    """One network and share: percent after fine-tuning of every method, over shared seeds."""

    net: str
    share: float
    means: dict[str, float]
    seeds: int

    def best(self, *, ours: bool) -> str:
        """The best of ours, or of the others."""
        some = [method for method in self.means if (method in OURS) == ours]
        return max(some, key=lambda method: self.means[method])

    @property
    def compares(self) -> bool:
        """Whether there is one of ours and another one."""
        return len({method in OURS for method in self.means}) == 2


def cell(records: Sequence[Record], net: str, share: float) -> Cell:
    """What is known of one network and share."""
    mine = [
        r for r in records
        if r["net"] == net and r["share"] == share and r["method"] not in (DENSE, LATE)
    ]  # fmt: skip
    seeds = {m: {r["seed"] for r in mine if r["method"] == m} for m in METHODS}
    present = [method for method in METHODS if seeds[method]]
    shared = set.intersection(*(seeds[method] for method in present)) if present else set()
    means = {
        method: 100 * statistics.mean(
            r["final"] for r in mine if r["method"] == method and r["seed"] in shared
        )
        for method in present if shared
    }  # fmt: skip
    return Cell(net, share, means, len(shared))


def verdict(records: Sequence[Record]) -> str:
    """Where ours are ahead, level and behind, over all cells and in each."""
    shares = sorted(SHARES, reverse=True)
    cells = [found for net in NETWORKS for share in shares
             if (found := cell(records, net, share)).compares]  # fmt: skip
    if not cells:
        return "Too little was run to compare anything."
    head = f"Test accuracy after fine-tuning; less than {LEVEL:g} percent apart counts as level."
    overall = f"- The best of ours against the best of the others: {tally(cells, best_of_ours)}."
    each = "\n".join(f"- {sentence(found)}" for found in cells)
    text = "\n".join([head, "", overall, *against(cells)]) + f"\n\nIn each of them:\n\n{each}"
    right_after = "\n".join(f"- {line}" for each in cells if (line := after_cut(records, each)))
    if right_after:
        text += f"\n\nRight after the cut, over the seeds that each method has:\n\n{right_after}"
    return text


def after_cut(records: Sequence[Record], each: Cell) -> str:
    """The best of ours and of the others right after the cut; nothing where one lacks."""
    known: dict[str, list[float]] = {}
    for record in records:
        if (record["net"], record["share"]) == (each.net, each.share) and "after_cut" in record:
            known.setdefault(record["method"], []).append(100 * record["after_cut"])
    means = {method: statistics.mean(values) for method, values in known.items()}
    ours = [method for method in means if method in OURS]
    others = [method for method in means if method not in OURS]
    if not (ours and others):
        return ""
    mine, other = max(ours, key=means.__getitem__), max(others, key=means.__getitem__)
    runs = f"{len(known[mine])} seed{'s' * (len(known[mine]) != 1)}"
    early = f", Budget {means['budget']:.1f}" if "budget" in means and mine != "budget" else ""
    return (
        f"{each.net}, {each.share:g}: ours {standing(means[mine], means[other])}: {METHODS[mine]} "
        f"{means[mine]:.1f} ({runs}){early}; best of the others "
        f"{METHODS[other]} {means[other]:.1f}."
    )


def best_of_ours(each: Cell) -> tuple[float, float] | None:
    """The best of ours, and of the others."""
    return each.means[each.best(ours=True)], each.means[each.best(ours=False)]


def against(cells: Sequence[Cell]) -> list[str]:
    """How each of ours stands against the others at large, and Budget against starting narrow."""
    peers = [method for method in METHODS if method.startswith("tp_")]
    pairs = [(mine, "the best of Torch-Pruning", peers) for mine in METHODS if mine in OURS]
    pairs += [
        ("budget", "a narrower network from scratch", ["narrow"]),
        ("budget", "its own architecture from scratch", ["scratch"]),
    ]
    return [line for mine, words, others in pairs if (line := duel(cells, mine, words, others))]


def duel(cells: Sequence[Cell], mine: str, words: str, others: Sequence[str]) -> str:
    """One of ours against the best of some others; nothing where they never meet."""

    def both(each: Cell) -> tuple[float, float] | None:
        found = [each.means[method] for method in others if method in each.means]
        return (each.means[mine], max(found)) if found and mine in each.means else None

    met = [pair for each in cells if (pair := both(each)) is not None]
    if not met:
        return ""
    gap = statistics.mean(one - other for one, other in met)
    return f"- {METHODS[mine]} against {words}: {tally(cells, both)}, {gap:+.1f} on average."


def tally(cells: Sequence[Cell], pair: Callable[[Cell], tuple[float, float] | None]) -> str:
    """In how many cells the first of two numbers is ahead, level and behind."""
    counts = Counter(standing(*found) for each in cells if (found := pair(each)) is not None)
    return ", ".join(f"{word} in {counts[word]}" for word in WORDS) + f" of {counts.total()} cells"


def standing(mine: float, other: float) -> str:
    """One of :data:`WORDS`."""
    gap = mine - other
    return "level" if abs(gap) < LEVEL else "ahead" if gap > 0 else "behind"


def sentence(each: Cell) -> str:
    """Both sides of one cell, and on how much it stands."""
    ours, other = each.best(ours=True), each.best(ours=False)
    word = standing(each.means[ours], each.means[other])
    known = "budget" in each.means and ours != "budget"
    budget = f", Budget {each.means['budget']:.1f}" if known else ""
    run = f"{each.seeds} seed{'s' * (each.seeds != 1)}"
    missing = len(METHODS) - len((DENSE, LATE)) - len(each.means)
    run += f", {missing} methods missing" if missing else ""
    return (
        f"{each.net}, {each.share:g}: ours {f'**{word}**' if word == 'behind' else word}: "
        f"{METHODS[ours]} {each.means[ours]:.1f}{budget}; best of the others "
        f"{METHODS[other]} {each.means[other]:.1f} ({run})."
    )
