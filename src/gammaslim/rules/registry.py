"""The one table from ATen operator to rule, and how a rule is looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gammaslim.recording import Op, Recorder, Rule

RULES: dict[Any, Rule] = {}
"""Operator (overload packet) -> its rule; each operator stands here once."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators by name; an in-place twin ``name_`` comes along.

    Names that this torch does not have are passed over, so that one list serves several versions.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            for twin in (name, f"{name}_"):
                packet = getattr(torch.ops.aten, twin, None)
                if packet is None:
                    continue
                if packet in RULES:
                    raise ValueError(f"aten.{twin} already has a rule.")
                RULES[packet] = function
        return function

    return register


def rule_for(func: Any) -> Rule:
    """The rule of an operator: its own, the pointwise one if PyTorch says so, else freeze."""
    found = RULES.get(func.overloadpacket)
    if found is not None:
        return found
    if torch.Tag.pointwise in func.tags:
        return RULES[torch.ops.aten.add]
    return unknown


def unknown(recorder: Recorder, op: Op) -> None:
    """Freeze everything that an operator without a rule touches."""
    recorder.freeze_all(op, f"unknown operator {op.name}")
