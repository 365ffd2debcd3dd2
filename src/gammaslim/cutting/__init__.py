"""A plan applied, proven, folded, or taken back."""

from gammaslim.cutting.folding import Folded, add_bias, biases_added
from gammaslim.cutting.pruning import Change, Outcome, prune
from gammaslim.cutting.surgery import apply_plan, cuts_by_tensor, remembered_plan

__all__ = [
    "Change",
    "Folded",
    "Outcome",
    "add_bias",
    "apply_plan",
    "biases_added",
    "cuts_by_tensor",
    "prune",
    "remembered_plan",
]
