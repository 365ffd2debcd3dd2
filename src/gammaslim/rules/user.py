"""Rules that users register for operators of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from gammaslim.arrays import IntArray
from gammaslim.errors import RuleError
from gammaslim.labels.store import LabelArray
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder

_PYTORCH = ("aten", "prim", "prims")


class OperatorCall:
    """One call of a custom operator: what its rule may ask, and what it may say.

    ``name`` is the operator's name, ``inputs`` are all its tensor arguments and ``outputs`` all the
    tensors that it returned; ``call["x"]`` is the argument that its schema calls ``x``.  Tensors
    may be without data: a rule reads their shapes, never their values.
    """

    def __init__(self, recorder: Recorder, op: Op) -> None:
        """For the call ``op``, whose labels ``recorder`` keeps."""
        self._recorder = recorder
        self._op = op
        self._spoken: list[IntArray] = []
        self._given: set[int] = set()
        self.name: str = op.name
        self.inputs: tuple[Tensor, ...] = tuple(op.inputs)
        self.outputs: tuple[Tensor, ...] = op.outputs

    def __getitem__(self, argument: str) -> Any:
        """The argument of that name."""
        return self._op[argument]

    def labels(self, tensor: Tensor) -> tuple[LabelArray, ...]:
        """The labels of a tensor: per dimension an array with one integer per index, or ``None``.

        Indices of one label live and die together.  Arrays may be cut, joined and reordered, but
        not computed with.  ``None`` is a dimension of which nothing may go.
        """
        return self._recorder.dims(tensor)

    def unite(self, left: LabelArray, right: LabelArray) -> LabelArray:
        """The i-th index of both lives or dies together; gives the labels of what comes of them."""
        if left is not None and right is not None and left.shape != right.shape:
            raise ValueError(f"{len(left)} labels cannot be united with {len(right)}")
        self._speak(left, right)
        return self._recorder.unite(left, right)

    def freeze(self, labels: LabelArray, why: str) -> None:
        """None of these indices may go, because ``why``."""
        self._speak(labels)
        self._recorder.freeze(labels, why)

    def counts(self, labels: LabelArray) -> None:
        """The result depends on how many of these indices there are, as a mean over them does.

        They may go, but inexactly: the reference is this operator over the kept ones only.
        """
        if labels is not None:
            self._speak(labels)
            self._recorder.depends_on_count(labels)
            self._recorder.recount(self.inputs)

    def give(self, output: Tensor, labels: Sequence[LabelArray], *, zero: bool = False) -> None:
        """The labels of an output, one entry per dimension.

        ``zero``: where a removed channel is zero in all inputs, it is zero in this output.
        """
        found = [None if own is None else len(own) for own in labels]
        shape = list(output.shape)
        if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(found, shape)):  # noqa: B905
            raise ValueError(f"labels of lengths {found} do not fit an output of shape {shape}")
        self._speak(*labels)
        self._given.add(id(output))
        zeros = [self._recorder.labels(tensor).zero for tensor in self.inputs]
        self._recorder.give(output, labels, zero=zero and all(zeros))

    def freeze_unspoken(self) -> None:
        """Whatever the rule has said nothing of stays."""
        if any(id(output) not in self._given for output in self.outputs):
            self._recorder.freeze_all(self._op, f"the rule for {self.name} leaves out an output")
        spoken = np.concatenate([np.empty(0, dtype=np.int64), *self._spoken])
        for tensor in self.inputs:
            for labels in self._recorder.dims(tensor):
                if labels is not None:
                    missed = labels[~np.isin(labels, spoken)]
                    self._recorder.freeze(missed, f"the rule for {self.name} leaves it out")

    def _speak(self, *arrays: LabelArray) -> None:
        self._spoken += [labels.ravel() for labels in arrays if labels is not None]


Body = Callable[[OperatorCall], None]


class UserRule:
    """A registered rule.  As a context manager it removes itself at the end."""

    def __init__(self, operator: str, body: Body) -> None:
        """``body`` for the operator of this qualified name."""
        self.operator = operator
        self.body = body

    def __call__(self, recorder: Recorder, op: Op) -> None:
        """Apply the rule to one call."""
        call = OperatorCall(recorder, op)
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


def rule(operator: Operator) -> Callable[[Body], UserRule]:
    """Register what a custom operator does to channels: a decorator for a function of one call.

    While a network is traced, the function gets an :class:`OperatorCall` for each call of the
    operator, and says which labels unite, which freeze, and which each output carries.  Channels
    and outputs that it says nothing of are frozen.  See ``docs/rules.md`` for an example.

    Args:
        operator: what ``torch.library.custom_op`` made, ``torch.ops.mylib.op``, one overload of it,
            or its name ``"mylib::op"``, under which it may also be defined later.

    Returns:
        A decorator, which returns the registered rule: ``remove()`` forgets it, and ``with`` does
        so at the end of the block.

    Raises:
        RuleError: this is no operator, it is PyTorch's own, or it has another rule already (the
            same function, defined anew, takes its own place).
    """
    name = _qualified_name(operator)

    def register(body: Body) -> UserRule:
        present = USER_RULES.get(name)
        if present is not None and _origin(present.body) != _origin(body):
            raise RuleError(
                f"A rule was given for {name}, which has one already: {_origin(present.body)}. "
                "Remove that one first, with its remove()."
            )
        made = USER_RULES[name] = UserRule(name, body)
        return made

    return register


def user_rule(func: OpOverload[..., Any]) -> UserRule | None:
    """The rule that a user registered for this overload, or for the operator."""
    name = func.name()
    return USER_RULES.get(name) or USER_RULES.get(name.partition(".")[0])


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
    if name.partition("::")[0] in _PYTORCH:
        raise RuleError(
            f"{name} is PyTorch's own, and gammaslim's rules for those cannot be replaced. Make a "
            "custom operator of what the network does there, or keep its channels with ignore=."
        )
    return name


def _origin(body: Body) -> str:
    return f"{body.__module__}.{body.__qualname__}"
