"""What is said of labels while a network runs, and the union that settles it."""

from gammaslim.labels.equations import Terms, Variable
from gammaslim.labels.resolver import resolve
from gammaslim.labels.store import ELASTIC, LabelArray, LabelStore, Partition, fixed_code, or_fixed
from gammaslim.labels.union import Classes

__all__ = [
    "ELASTIC",
    "Classes",
    "LabelArray",
    "LabelStore",
    "Partition",
    "Terms",
    "Variable",
    "fixed_code",
    "or_fixed",
    "resolve",
]
