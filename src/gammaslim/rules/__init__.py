"""One short rule per operator family; importing this package fills the registry."""

from gammaslim.rules import (
    attention,
    cuts,
    folds,
    norms,
    pointwise,
    positions,
    reductions,
    reshape,
    shapes,
    spectra,
    weights,
)
from gammaslim.rules.registry import FUNCTION_RULES, RULES
from gammaslim.rules.user import rule, rule_for

__all__ = [
    "FUNCTION_RULES",
    "RULES",
    "attention",
    "cuts",
    "folds",
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
