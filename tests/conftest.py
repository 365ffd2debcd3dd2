"""What every test shares: thread count, torchvision's missing schemas, Hypothesis profiles."""

import importlib.util
import os
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

# Workers of pytest-xdist would otherwise fight over the cores.
torch.set_num_threads(1)


def _declare_box_operators() -> None:
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


_declare_box_operators()
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=25, derandomize=True, **_common)
settings.register_profile("long", max_examples=2000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
