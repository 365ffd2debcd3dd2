"""The one oracle of tests and benchmarks: whether a cut was right, told from outside."""

from bench.oracle.checks import (
    check_agreement,
    check_attributes,
    check_cost,
    check_law,
    check_training,
    random_scores,
    removed,
    traced,
)
from bench.oracle.law import TOLERANCE, Finding, Pair, judged, kept_slices, masked_by, masked_copy
from bench.oracle.networks import (
    call,
    drift,
    exports,
    named_tensors,
    outputs,
    randomise_batchnorms,
    settle,
    snapshot,
    tensors,
)

__all__ = [
    "TOLERANCE",
    "Finding",
    "Pair",
    "call",
    "check_agreement",
    "check_attributes",
    "check_cost",
    "check_law",
    "check_training",
    "drift",
    "exports",
    "judged",
    "kept_slices",
    "masked_by",
    "masked_copy",
    "named_tensors",
    "outputs",
    "random_scores",
    "randomise_batchnorms",
    "removed",
    "settle",
    "snapshot",
    "tensors",
    "traced",
]
