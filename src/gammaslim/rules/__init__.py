"""One short rule per operator family; importing this package fills the registry."""

from gammaslim.rules import norms, pointwise, reductions, reshape, shapes, weights
from gammaslim.rules.registry import RULES, rule, rule_for

__all__ = ["RULES", "norms", "pointwise", "reductions", "reshape", "rule", "rule_for", "shapes",
           "weights"]  # fmt: skip
