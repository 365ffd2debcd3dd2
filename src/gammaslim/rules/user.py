"""Rules that users register for operators of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch._C import (
    DispatchKey,
    _dispatch_has_kernel,  # pyright: ignore[reportPrivateUsage]
    _dispatch_has_kernel_for_dispatch_key,  # pyright: ignore[reportPrivateUsage]
)
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from gammaslim.errors import RuleError
from gammaslim.recording import OperatorCall, Rule
from gammaslim.rules.registry import built_in, unknown


class UserRule:
    """A registered rule.  As a context manager it removes itself at the end."""

    def __init__(self, operator: str, body: Rule) -> None:
        """``body`` for the operator of this qualified name."""
        self.operator = operator
        self.body = body

    def __call__(self, call: OperatorCall) -> None:
        """Apply the rule to one call; what it leaves out is frozen."""
        self.body(call)
        call.freeze_unspoken()

    def remove(self) -> None:
        """Forget the rule: the operator freezes what it touches, as before."""
        if USER_RULES.get(self.operator) is self:
            del USER_RULES[self.operator]

    def __enter__(self) -> Self:
        """The rule itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.remove()


USER_RULES: dict[str, UserRule] = {}
"""Qualified name of an operator, or of one overload of it -> its rule."""

Operator = str | OpOverload[..., Any] | OpOverloadPacket[..., Any] | CustomOpDef


def rule(operator: Operator) -> Callable[[Rule], UserRule]:
    """Register what an operator does to channels: a decorator for a function of one call.

    It may be an operator of your own, or one of PyTorch's for which gammaslim has no rule.

    While a network is traced, the function gets an :class:`OperatorCall` for each call of the
    operator, and says which labels unite, which freeze, and which each output carries.  Channels
    and outputs that it says nothing of are frozen.  See ``docs/rules.md`` for an example.

    Args:
        operator: what ``torch.library.custom_op`` made, ``torch.ops.mylib.op``, one overload of it,
            or its name ``"mylib::op"``, under which it may also be defined later.  PyTorch's own
            are ``torch.ops.aten.op``, or ``"aten::op"``.

    Returns:
        A decorator, which returns the registered rule: ``remove()`` forgets it, and ``with`` does
        so at the end of the block.

    Raises:
        RuleError: this is no operator, it is one of PyTorch's that gammaslim has a rule for or
            follows part by part, or it has another rule already (the same function, defined anew,
            takes its own place).
    """
    name = _qualified_name(operator)

    def register(body: Rule) -> UserRule:
        present = USER_RULES.get(name)
        if present is not None and _origin(present.body) != _origin(body):
            raise RuleError(
                f"A rule was given for {name}, which has one already: {_origin(present.body)}. "
                "Remove that one first, with its remove()."
            )
        made = USER_RULES[name] = UserRule(name, body)
        return made

    return register


def rule_for(func: Any) -> Rule:
    """The rule of an operator: a user's, the built-in one, else freeze.

    A higher-order operator (``torch.cond``) calls functions of the network, and has no rule.
    """
    if not isinstance(func, OpOverload):
        return unknown
    name = func.name()
    own = USER_RULES.get(name) or USER_RULES.get(name.partition(".")[0])
    return own or built_in(func) or unknown


def _qualified_name(operator: Operator) -> str:
    """``namespace::name``, and ``.overload`` where one is meant."""
    name = operator
    if isinstance(operator, CustomOpDef):
        name = operator._qualname  # noqa: SLF001
    elif isinstance(operator, OpOverload):
        name = operator.name()
    elif isinstance(operator, OpOverloadPacket):
        name = operator._qualified_op_name  # noqa: SLF001
    if not isinstance(name, str) or name.count("::") != 1:
        raise RuleError(
            f"A rule is registered for an operator: its name such as 'mylib::op', torch.ops.mylib."
            f"op, or what torch.library.custom_op returned; found {operator!r}."
        )
    if name.startswith(("aten::", "prim::", "prims::")):
        _refuse_known(name)
    return name


def _refuse_known(name: str) -> None:
    """PyTorch's own operators may be taught where gammaslim does not follow them already."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten::").partition(".")[0], None)
    forms = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
    if not forms:
        raise RuleError(
            f"{name} is PyTorch's own, and this PyTorch ({torch.__version__}) has no ATen operator "
            "of that name. graph.frozen names the operators that need a rule."
        )
    if any(built_in(form) for form in forms):
        raise RuleError(
            f"{name} is PyTorch's own, and gammaslim's rule for it cannot be replaced. Make a "
            "custom operator of what the network does there, or keep its channels with ignore=."
        )
    composed = DispatchKey.CompositeImplicitAutograd.name
    dispatched = (form.name() for form in forms if _dispatch_has_kernel(form.name()))
    if all(_dispatch_has_kernel_for_dispatch_key(form, composed) for form in dispatched):
        raise RuleError(
            f"{name} is PyTorch's own, and made of other operators, which are followed one by one: "
            "its rule would never be asked. graph.frozen names those that need one."
        )


def _origin(body: Rule) -> str:
    return f"{body.__module__}.{body.__qualname__}"
