"""The one table from ATen operator to rule, and how a rule is looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from gammaslim.recording import OperatorCall, Rule

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


FUNCTION_RULES: dict[Any, Rule] = {}
"""Torch function -> what must be known of its Python arguments, before it becomes operators."""


def function_rule(function: Any) -> Callable[[Rule], Rule]:
    """Register a rule for a torch function, seen with the arguments that the network gave.

    ``signatures.py`` must have the names of its parameters.
    """

    def register(body: Rule) -> Rule:
        FUNCTION_RULES[function] = body
        return body

    return register


def built_in(func: OpOverload[..., Any]) -> Rule | None:
    """The rule that is written here for an operator, or the one for all that are pointwise."""
    packet = func.overloadpacket
    if packet in RULES:
        return RULES[packet]
    name = packet.__name__
    twin = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    forms = [func] if twin is None else [func, getattr(twin, twin.overloads()[0])]
    pointwise = any(torch.Tag.pointwise in form.tags for form in forms)
    return RULES[torch.ops.aten.add] if pointwise else None


def unknown(call: OperatorCall) -> None:
    """Freeze everything that an operator without a rule touches."""
    call.freeze_all(f"unknown operator {call.name}")
