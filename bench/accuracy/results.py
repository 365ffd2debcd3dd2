"""The file of results: one line of JSON per run, only ever appended to."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import TypeGuard

from bench.accuracy.grid import OURS, UNCUT
from bench.zoo.results import Record, records

FOLDER = Path(__file__).parent
COMMON = ("glyphs", "nets", "setup", "training", "measures")


@cache
def fingerprint(method: str) -> str:
    """What a method's results depend on: the bench's code for it, less comments and docstrings.

    What the library does is not in it: raise :data:`bench.accuracy.setup.VERSION` when a change
    there may move accuracies.
    """
    own = "ours" if method in OURS else "baselines" if method in UNCUT else "peer"
    late = ("late",) if method == "budget_late" else ()
    digest = hashlib.sha256()
    for name in (*COMMON, own, *late):
        digest.update(_code((FOLDER / f"{name}.py").read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def _code(text: str) -> str:
    """The lines of a file without blank ones, comments and docstrings."""
    texts = [node for node in ast.walk(ast.parse(text)) if _is_text(node)]
    within = {n for node in texts for n in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = [line for n, line in enumerate(text.splitlines(), 1) if n not in within]
    return "\n".join(line.rstrip() for line in lines if line.strip() and line.strip()[0] != "#")


def _is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def load(file: Path, recipe: str) -> dict[str, Record]:
    """The latest record of every run of this recipe and of the present sources, by key.

    A line that an interruption cut short is left out.
    """
    return {
        record["key"]: record
        for record in records(file)
        if record["recipe"] == recipe and record["sources"] == fingerprint(record["method"])
    }
