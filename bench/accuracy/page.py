"""The page: one table per network and share, and what they say, from the results alone."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version

from bench.accuracy.grid import DENSE, METHODS, OURS, SHARES
from bench.accuracy.nets import NETWORKS
from bench.accuracy.ours import MOST
from bench.accuracy.results import Record
from bench.accuracy.setup import Setup
from bench.accuracy.verdict import verdict

DASH = "–"
Cell = Callable[[Sequence[Record]], str]


def percent(name: str) -> Cell:
    """Mean and standard deviation over the seeds, in percent; the number itself of one seed."""
    return lambda records: spread([100 * r[name] for r in records if name in r], "{:.1f}")


def spread(values: Sequence[float], form: str) -> str:
    """``mean ± standard deviation``; without the latter where there is one value only."""
    if not values:
        return DASH
    mean = form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(values))}"


def mean(name: str, form: str) -> Cell:
    """The mean of a number."""
    return lambda records: form.format(statistics.mean(r[name] for r in records))


def seconds(records: Sequence[Record]) -> str:
    """Processor and wall seconds of the training."""
    cpu, wall = (statistics.mean(r[name] for r in records) for name in ("cpu_s", "wall_s"))
    return f"{cpu:.0f} / {wall:.0f}"


def thinnest(records: Sequence[Record]) -> str:
    """The fewest channels that any layer is left with."""
    return str(min(min(r["widths"]) for r in records))


def faster(batch: str) -> Cell:
    """How many times as fast as the whole network a forward pass is."""

    def cell(records: Sequence[Record]) -> str:
        pairs = [r["latency_ms"][batch] for r in records]
        return f"{statistics.mean(whole / cut for whole, cut in pairs):.2f}"

    return cell


COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("seeds", lambda records: str(len(records))),
    ("before the cut", percent("before")),
    ("right after it", percent("after_cut")),
    ("after fine-tuning", percent("final")),
    ("training, s", seconds),
    ("kept MACs", mean("macs", "{:.3f}")),
    ("kept parameters", mean("params", "{:.3f}")),
    ("thinnest layer", thinnest),
    ("times as fast, batch 1", faster("1")),
    ("batch 32", faster("32")),
)


def table(lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Lines of cells, of which the first is the header; the first columns hold text."""
    rules = [*["---"] * texts, *["---:"] * (len(lines[0]) - texts)]
    rows = [lines[0], rules, *lines[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def filled(text: str) -> str:
    """Paragraphs and bullets, broken anew at 100 characters."""
    parts = re.split(r"\n(?=- )|(?<=\n)\n|\n(?=\n)", text)
    return "\n".join(
        textwrap.fill(
            re.sub(r"\s+", " ", part),
            100,
            subsequent_indent="  " * part.startswith("- "),
            break_on_hyphens=False,
        )
        for part in parts
    )


def of(records: Sequence[Record], method: str, net: str, share: float) -> list[Record]:
    """The runs of one cell."""
    cell = (method, net, share)
    return [r for r in records if (r["method"], r["net"], r["share"]) == cell]


def comparison(records: Sequence[Record], net: str, share: float) -> str:
    """One table: a row per method that was run, the whole network for comparison last."""
    lines = [["method", *(name for name, _ in COLUMNS)]]
    for method in (*(m for m in METHODS if m != DENSE), DENSE):
        found = of(records, method, net, 1.0 if method == DENSE else share)
        if found:
            lines.append([METHODS[method], *(cell(found) for _, cell in COLUMNS)])
    return table(lines)


def exactness(records: Sequence[Record]) -> str:
    """Of ours, which cuts removed nothing but zeros, and what the others moved."""
    lines = [["method", "network", "kept", "cuts", "zeros only", "largest drift", "same answers"]]
    for method in (m for m in METHODS if m in OURS):
        for net in NETWORKS:
            for share in sorted(SHARES, reverse=True):
                found = [r for r in of(records, method, net, share) if "drift" in r]
                if found:
                    exact = sum(bool(r["zero"]) for r in found)
                    worst = f"{max(r['drift'] for r in found):.1e}"
                    same = f"{100 * min(r['same'] for r in found):.2f} %"
                    cell = [METHODS[method], net, f"{share:g}", str(len(found)), str(exact)]
                    lines.append([*cell, worst, same])
    return table(lines, 2) if len(lines) > 1 else "Nothing was run."


def strengths(records: Sequence[Record]) -> str:
    """The λ of every method on every network."""
    lines = [["method", *NETWORKS]]
    for method, label in METHODS.items():
        row: list[str] = []
        for net in NETWORKS:
            found = [r["strength"] for r in records if r["method"] == method and r["net"] == net
                     and r.get("strength")]  # fmt: skip
            row.append(f"{statistics.mean(found):.2g}" if found else DASH)
        if any(cell != DASH for cell in row):
            lines.append([label, *row])
    return table(lines) if len(lines) > 1 else ""


def conditions(records: Sequence[Record], setup: Setup) -> str:
    """How it was measured."""
    names = ("cpu", "cores", "torch")
    machines = {tuple(r["machine"][name] for name in names) for r in records}
    where = "; ".join(
        f"{cpu}, {cores} cores of which one is used, torch {torch}"
        for cpu, cores, torch in sorted(machines)
    )
    text = CONDITIONS.format(
        setup=setup, where=where or "nothing so far", most=f"{MOST:.0%}", runs=len(records),
        peer=version("torch-pruning"), rest=setup.epochs - setup.sparse_epochs,
    )  # fmt: skip
    return filled(text)


CONDITIONS = """\
{setup.train:,} training and {setup.test:,} test pictures of 62 classes of drawn letters and digits
(`bench/accuracy/glyphs.py`), three small networks (`bench/accuracy/nets.py`). Every method has
{setup.epochs} epochs in all, with the same pictures in the same order and the same learning rate at
the same step: SGD with momentum {setup.momentum}, batches of {setup.batch}, up to {setup.rate} in
the first tenth, then a half cosine to zero; weight decay {setup.decay} on weights only; float32,
one thread. {runs} runs; {where}. Training times are processor seconds / wall seconds; other work
ran on the machine meanwhile, so the first are the better ones.

- **L1, GroupLasso, Proximal**: {setup.sparse_epochs} epochs with the penalty, the cut by
  `gs.scores` and `gs.select(keep_macs=...)`, no layer losing more than {most} of its width,
  {rest} epochs more with the same optimizer. λ is what `gs.suggest_strength` says with a margin
  of {setup.margin}, untuned, and the same for every share.
- **Budget**: `gs.Budget(keep_macs=..., steps=...)` with its defaults over all {setup.epochs}
  epochs, cut as soon as the chosen channels are zero, with the same optimizer throughout. **Cut at
  the end**: the same training, at full width up to its end, as in the README; both go on
  alike but for rounding, which a training amplifies.
- **Torch-Pruning {peer}**: {setup.sparse_epochs} epochs, with `update_regularizer` and
  `regularize` as in its README where the pruner has them, then `pruner.step()` for a hundredth
  of the channels at a time until the MACs are met, then {rest} epochs with a fresh optimizer.
  BNScalePruner and GroupNormPruner rank globally, as its reproduction of its paper does, the
  magnitude pruner within layers, as its README does; no layer loses more than {most}. Strengths:
  1e-5, the default; as "strong" what we suggest for L1 (BNScalePruner), and 5e-4, with which it
  reproduces its paper (GroupNormPruner).
- **narrower network from scratch**: one width multiplier for all layers, solved for the MACs;
  **Budget's architecture from scratch**: the widths that Budget found for the same seed, fresh
  weights. Both train all {setup.epochs} epochs.

No method's settings were tuned on this task, with one exception: the defaults of Budget were chosen
in a study on these pictures and networks."""


def page(records: Sequence[Record], setup: Setup, picture: str) -> str:
    """The whole page."""
    parts = [
        "# Accuracy at a number of multiply-accumulates",
        ABOUT,
        "## What it says",
        filled(verdict(records)),
        f"![Accuracy over kept MACs]({picture})",
        "## How it was measured",
        conditions(records, setup),
    ]
    for net in NETWORKS:
        for share in sorted(SHARES, reverse=True):
            if any(r["net"] == net and r["share"] == share for r in records):
                parts += [f"## {net}, {share:g} of the MACs", comparison(records, net, share)]
    parts += ["## What the cut itself changes", EXACTNESS, exactness(records)]
    if found := strengths(records):
        parts += ["## Strengths", found]
    return "\n\n".join(parts) + "\n"


ABOUT = """\
Written by `python -m bench.accuracy` from `bench/accuracy/results.jsonl`; `make accuracy` goes on
where it stopped. Accuracies are in percent of the test pictures: mean ± standard deviation over the
seeds, or the only number where there is one seed. "Before the cut" is in the middle of training,
while the learning rate is high: two fifths of the way for Budget, two thirds for the others, but
for the budget that is cut at the end."""
EXACTNESS = """\
Over all test pictures: the largest change of any logit, relative to the largest logit, and the
share of pictures of which the network says the same right before and right after the cut; the worst
of the seeds. "Zeros only" counts the cuts that removed nothing but scales and shifts that were
exactly zero."""
