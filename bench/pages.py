"""Pages that are written by hand but for what stands between two markers."""

from __future__ import annotations

from pathlib import Path


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:start -->`` and ``<!-- name:end -->``.

    Raises:
        SystemExit: the page lacks one of the two.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    old = page.read_text(encoding="utf-8")
    if start not in old or end not in old:
        raise SystemExit(f"{page.name} needs the lines {start} and {end}.")
    before, rest = old.split(start, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{start}\n{text}{end}{after}", encoding="utf-8")
