"""The file of results: one line of JSON per network, only ever appended to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gammaslim

Record = dict[str, Any]


def fingerprint(*others: Path) -> str:
    """What the results depend on: the library's sources as they are now, and these files."""
    root = Path(gammaslim.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    for path in others:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load(file: Path, sources: str) -> dict[str, Record]:
    """The latest record of every network that was measured with these sources of the library.

    A line that an interruption cut short is left out.
    """
    return {r["key"]: r for r in records(file) if r["sources"] == sources}


def records(file: Path) -> Iterator[Record]:
    """All lines of a file of results, in their order, less what an interruption cut short."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def append(file: Path, record: Record) -> None:
    """Write one line, and see that it is on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("" if whole else "\n") + json.dumps(record) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
