"""The page: one row per network, what was found in one line each, and the reasons."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from bench.oracle import TOLERANCE
from bench.zoo.entries import ENTRIES, Entry
from bench.zoo.ours import ENOUGH
from bench.zoo.results import Record

Cell = Callable[[Record], str]
DASH = "–"
PACKAGES = ("torch", "timm", "torchvision", "transformers", "torch-pruning")
VERDICTS = ("verified", "refused", "wrong", "failed")


def verdict(ours: Record) -> str:
    """One of :data:`VERDICTS`: ``failed`` is a crash, or more time than there was."""
    if "failed" in ours:
        return "failed"
    cuts = ours.get("cuts", ())
    if any("refused" in one for one in (ours, *cuts)):
        return "refused"
    return "verified" if all(right(cut) for cut in cuts) else "wrong"


def right(cut: Record) -> bool:
    """Whether the law holds by both checks and the network still trains."""
    return cut["drift"] <= TOLERANCE and cut["law"]["holds"] and not cut["training_error"]


def number(key: str, form: str) -> Cell:
    """A number of a record, or a dash where there is none."""
    return lambda ours: format(ours[key], form) if key in ours else DASH


def params(ours: Record) -> str:
    """In millions."""
    return f"{ours['params'] / 1e6:.1f} M" if "params" in ours else DASH


def ratio(ours: Record) -> str:
    """Trace time in plain fake forward passes."""
    if "fake_forward_s" not in ours:
        return DASH
    return f"{ours['trace_s'] / ours['fake_forward_s']:.1f}"


def drift_at(place: int) -> Cell:
    """The larger drift of the two checks; the share removed where it is not the one asked for."""

    def cell(ours: Record) -> str:
        cut = ours["cuts"][place] if "cuts" in ours else {"refused": ""}
        if "refused" in cut:
            return "refused"
        text = f"{max(cut['drift'], cut['law']['drift']):.1e}"
        return text if cut["removed"] == cut["asked"] else f"{text} (at {cut['removed']:.0%})"

    return cell


def caught(ours: Record) -> str:
    """How many of the weights that were rolled on purpose were noticed."""
    done = [one for cut in ours.get("cuts", ()) for one in cut.get("controls", ())]
    return f"{sum(bool(one['caught']) for one in done)} of {len(done)}" if done else DASH


def trains(ours: Record) -> str:
    """Whether the cut networks run forward and backward in training mode."""
    done = [cut["training_error"] for cut in ours.get("cuts", ()) if "training_error" in cut]
    return DASH if not done else "no" if any(done) else "yes"


def peer_outcome(peer: Record) -> str:
    """In a few words."""
    if "failed" in peer:
        return peer["failed"]
    words = {"right": "right", "wrong": "wrong", "untrainable": "cannot be trained"}
    text = words.get(peer["verdict"], "fails")
    return text if text == "right" else f"{text}: {shortened(peer['text'])}"


def shortened(text: str, length: int = 90) -> str:
    """One table cell's worth of an error, without the paths of this machine."""
    text = without_paths(text).replace("|", "/")
    return text if len(text) <= length else f"{text[:length]}…"


def without_paths(text: str) -> str:
    """Source files by their place in their package or in this project."""
    return re.sub(rf"(?:\S*site-packages|{re.escape(os.getcwd())})/", "", text)  # noqa: PTH109


COLUMNS: tuple[tuple[str, str, Cell], ...] = (
    ("params", "---:", params),
    ("outcome", "---", verdict),
    ("coverage", "---:", number("coverage", ".3f")),
    ("drift at 30 %", "---:", drift_at(0)),
    ("drift at 60 %", "---:", drift_at(1)),
    ("rolled weights caught", "---:", caught),
    ("trains", "---", trains),
    ("trace, s", "---:", number("trace_s", ".2f")),
    ("first trace, s", "---:", number("first_trace_s", ".2f")),
    ("fake forwards", "---:", ratio),
    ("peak, MB", "---:", number("peak_mb", ".0f")),
)
PEER_COLUMNS: tuple[tuple[str, str, Cell], ...] = (
    ("Torch-Pruning: construction, s", "---:", number("construction_s", ".2f")),
    ("its outcome", "---", peer_outcome),
)


def table(records: Sequence[Record]) -> str:
    """One row per network."""
    columns = (*COLUMNS, *PEER_COLUMNS)
    lines = [
        ["network", *(name for name, _, _ in columns)],
        ["---", *(rule for _, rule, _ in columns)],
    ]
    for record in records:
        ours = [cell(record["ours"]) for _, _, cell in COLUMNS]
        peer = [cell(record["peer"]) if "peer" in record else DASH for _, _, cell in PEER_COLUMNS]
        lines.append([record["key"], *ours, *peer])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def values(records: Iterable[Record], side: str, key: str) -> list[float]:
    """One number of all records that have it."""
    return [record[side][key] for record in records if key in record.get(side, {})]


def summary(records: Sequence[Record], total: int) -> str:
    """What it all comes to, a line each."""
    verdicts = Counter(verdict(record["ours"]) for record in records)
    counts = ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS)
    lines = [f"**{len(records)} of {total} networks measured: {counts}.**"]
    coverage = values(records, "ours", "coverage")
    if coverage:
        lines.append(f"Coverage: mean {statistics.mean(coverage):.3f}, least {min(coverage):.3f}.")
        lines.extend(trace_lines(records))
    done = [record["peer"] for record in records if "peer" in record]
    if done:
        peers = Counter(peer.get("verdict", "out of time or crashed") for peer in done)
        said = ", ".join(f"{count} {name}" for name, count in peers.most_common())
        lines.append(f"Torch-Pruning on the same networks: {said}.")
    return "\n".join(f"- {line}" for line in lines)


def trace_lines(records: Sequence[Record]) -> list[str]:
    """Time and memory."""
    traces = values(records, "ours", "trace_s")
    done = [record for record in records if "trace_s" in record["ours"]]
    slowest, hungriest = max(done, key=first_trace), max(done, key=peak)
    lines = [
        f"Slowest first trace: {first_trace(slowest):.2f} s ({slowest['key']}).",
        f"Most memory above the model: {peak(hungriest):.0f} MB ({hungriest['key']}).",
    ]
    constructions = values(records, "peer", "construction_s")
    if constructions:
        lines.insert(0, paired(records, traces, constructions))
    return lines


def paired(records: Sequence[Record], traces: list[float], constructions: list[float]) -> str:
    """Medians over all, and over the networks on which the peer could be constructed."""
    both = [r["ours"]["trace_s"] for r in records
            if "trace_s" in r["ours"] and "construction_s" in r.get("peer", {})]  # fmt: skip
    return (
        f"Median trace {statistics.median(traces):.3f} s over all; over the {len(both)} networks "
        f"on which Torch-Pruning's pruner can be constructed, {statistics.median(both):.3f} s "
        f"against its {statistics.median(constructions):.3f} s."
    )


def first_trace(record: Record) -> float:
    """Seconds of the first trace in its process."""
    return record["ours"]["first_trace_s"]


def peak(record: Record) -> float:
    """MB that the first trace took above the model."""
    return record["ours"]["peak_mb"]


def bullets(title: str, lines: Sequence[str]) -> str:
    """A section, or nothing."""
    return f"## {title}\n\n" + "\n".join(lines) + "\n\n" if lines else ""


def refusals(records: Sequence[Record]) -> list[str]:
    """Why a network is not cut, or what is wrong with the cut."""
    lines: list[str] = []
    for record in records:
        ours = record["ours"]
        found = [ours.get("failed", ""), ours.get("refused", "")]
        for cut in ours.get("cuts", ()):
            found += [cut.get("refused", ""), cut.get("training_error", "")]
            if not cut.get("law", {"holds": True})["holds"]:
                found.append(f"drift {cut['law']['drift']:.1e}, first at {cut['law']['first']}")
        lines += [f"- {record['key']}: {without_paths(text)}" for text in found if text]
    return lines


def low_coverage(records: Sequence[Record]) -> list[str]:
    """Which scales are frozen and why, for every network below what needs no explanation."""
    lines: list[str] = []
    low = [record for record in records if record["ours"].get("coverage", 1) < ENOUGH]
    for record in sorted(low, key=lambda record: record["ours"]["coverage"]):
        reasons = record["ours"]["reasons"]
        lines.append(f"- {record['key']}, coverage {record['ours']['coverage']:.3f}:")
        lines += [f"    - {one['scales']} scales: {without_paths(one['text'])}" for one in reasons]
    return lines


def control_lines(records: Sequence[Record]) -> list[str]:
    """Which weight of the 30 % cut was rolled, and which output was the first to show it."""
    lines: list[str] = []
    for record in records:
        cuts: Any = record["ours"].get("cuts", ())
        found = cuts[0].get("controls", ()) if cuts else ()
        said = [f"`{one['rolled']}` at {one['caught'] or '**nothing**'}" for one in found]
        if said:
            lines.append(f"- {record['key']}: {', '.join(said)}")
    return lines


def notes(records: Sequence[Record]) -> list[str]:
    """What the graphs themselves say, such as that a network was traced on real tensors."""
    return [f"- {record['key']}: {without_paths(note)}"
            for record in records for note in record["ours"].get("notes", ())]  # fmt: skip


def version_of(package: str) -> str:
    """Its name and version."""
    try:
        return f"{package} {version(package).partition('+')[0]}"
    except PackageNotFoundError:  # the peer is not needed to measure our side
        return f"no {package}"


def conditions() -> str:
    """Where and how this was measured."""
    listed = ", ".join(version_of(name) for name in PACKAGES)
    return (
        f"Measured on one core ({platform.machine()}, {torch.get_num_threads()} of "
        f"{os.cpu_count()} cores used, Python {platform.python_version()}) with {listed}."
    )


INTRODUCTION = """# The zoo

`make zoo` writes this page. Every network runs in a process of its own with random weights and
random BatchNorm scales, shifts and statistics; 30 % and 60 % of its channels are removed at random.

- **outcome**: *verified* when at both cuts `gs.prune` and an independent check agree with the
  masked network to 1e-4 (on inputs that the cut never saw, at every convolution, linear layer and
  BatchNorm on the kept channels, and at the outputs) and the cut network runs forward and backward
  in training mode; *refused* when the library says why it will not cut; *failed* when it crashes
  or takes too long; else *wrong*.
- **coverage**: share of BatchNorm scales that may go.
- **rolled weights caught**: negative control. Weights of the cut network are rolled by one, one at
  a time; the independent check must notice each.
- **trace**: best of three; **first trace**: the first in its process. **fake forwards**: the best
  trace (evaluation, and training mode where the network's code asks for it) in units of one plain
  forward pass on fake tensors. **peak**: how far the first trace raised the resident memory of the
  process above what it was with the model loaded.
- **Torch-Pruning**: construction of its pruner (best of three) on the same network and inputs, then
  one cut of 30 % at random with the last layer ignored, held against its own masked network by the
  same check. Each side has a time limit.

"""


def page(found: dict[str, Record], entries: Sequence[Entry] = ENTRIES) -> str:
    """The whole page, networks in the order of the list."""
    records = [found[entry.key] for entry in entries if entry.key in found]
    return (
        f"{INTRODUCTION}{summary(records, len(entries))}\n\n{conditions()}\n\n## All networks\n\n"
        f"{table(records)}\n\n"
        + bullets("Refused, or wrong", refusals(records))
        + bullets(f"Coverage below {ENOUGH}, and why", low_coverage(records))
        + bullets("What the graphs say", notes(records))
        + bullets("Where the rolled weights of the 30 % cuts were caught", control_lines(records))
    ).rstrip() + "\n"
