"""One network in its own process: ``python -m bench.zoo.one KEY {ours,peer} FILE``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from bench.environment import declare_box_operators
from bench.zoo import ours, peer
from bench.zoo.entries import ENTRIES, build, images

SIDES = {"ours": ours.examine, "peer": peer.examine}


def main(argv: list[str] | None = None) -> None:
    """Write what was found to the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.one", description=__doc__)
    parser.add_argument("key", choices=[entry.key for entry in ENTRIES])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("file", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    declare_box_operators()
    entry = next(entry for entry in ENTRIES if entry.key == options.key)
    record = SIDES[options.side](build(entry), (images(entry, 1), images(entry, 2)))
    options.file.write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
