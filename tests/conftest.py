"""What every test shares: thread count, torchvision's missing schemas, Hypothesis profiles."""

import os

import torch
from hypothesis import HealthCheck, settings

from bench.environment import declare_box_operators

# Workers of pytest-xdist would otherwise fight over the cores.
torch.set_num_threads(1)


declare_box_operators()
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=25, derandomize=True, **_common)
settings.register_profile("long", max_examples=2000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
