"""One short rule per operator family; importing this package fills the registry."""

from gammaslim.rules import (
    attention,
    norms,
    pointwise,
    positions,
    reductions,
    reshape,
    shapes,
    spectra,
    weights,
)
from gammaslim.rules.registry import FUNCTION_RULES, RULES, rule, rule_for

__all__ = [
    "FUNCTION_RULES",
    "RULES",
    "attention",
    "norms",
    "pointwise",
    "positions",
    "reductions",
    "reshape",
    "rule",
    "rule_for",
    "shapes",
    "spectra",
    "weights",
]
