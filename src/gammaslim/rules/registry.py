"""The one table from ATen operator to rule, and how a rule is looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder, Rule
from gammaslim.recording.sizes import PythonCall
from gammaslim.rules.user import user_rule

FunctionRule = Callable[[Recorder, PythonCall], None]

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


FUNCTION_RULES: dict[Any, FunctionRule] = {}
"""Torch function -> what must be known of its Python arguments, before it becomes operators."""


def function_rule(function: Any) -> Callable[[FunctionRule], FunctionRule]:
    """Register a rule for a torch function, seen with the arguments that the network gave."""

    def register(body: FunctionRule) -> FunctionRule:
        FUNCTION_RULES[function] = body
        return body

    return register


def rule_for(func: Any) -> Rule:
    """The rule of an operator: its own, the pointwise one if PyTorch says so, else freeze.

    A higher-order operator (``torch.cond``) calls functions of the network, and has no rule.
    """
    if not isinstance(func, OpOverload):
        return unknown
    found = RULES.get(func.overloadpacket) or user_rule(func)
    if found is not None:
        return found
    if torch.Tag.pointwise in func.tags or _in_place_pointwise(func.overloadpacket):
        return RULES[torch.ops.aten.add]
    return unknown


def _in_place_pointwise(packet: Any) -> bool:
    """Whether this is the in-place twin of an operator that PyTorch calls pointwise."""
    name = packet.__name__
    twin = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return twin is not None and torch.Tag.pointwise in getattr(twin, twin.overloads()[0]).tags


def unknown(recorder: Recorder, op: Op) -> None:
    """Freeze everything that an operator without a rule touches."""
    recorder.freeze_all(op, f"unknown operator {op.name}")
