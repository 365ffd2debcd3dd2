"""What lets torchvision and timm be imported on every machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def declare_box_operators() -> None:
    """Let torchvision import beside a CPU torch, where its compiled box operators cannot load.

    Nothing here ever calls them; torchvision only insists that their names exist.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    library = next(Path(spec.origin).parent.glob("_C*.so"), None)
    try:
        if library is not None:
            torch.ops.load_library(library)
            return
    except OSError:
        pass  # a CUDA build beside a CPU torch: the case this function is for
    for name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
