"""The recorder: while the network runs on fake tensors, labels ride along with every operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammaslim.arrays import IntArray
from gammaslim.channels.records import Recount, Witness, Work
from gammaslim.labels.equations import Terms, Variable
from gammaslim.labels.store import ELASTIC, LabelArray, Partition, fixed_code
from gammaslim.network.modules import NORM_BASE
from gammaslim.network.source_lines import user_line
from gammaslim.recording.findings import (
    Dims,
    Findings,
    Grid,
    Reason,
    TensorLabels,
)
from gammaslim.recording.ops import Op, tensors_in
from gammaslim.recording.sizes import NO_CALL, Given, PythonCall, Size
from gammaslim.recording.streams import StreamNotes
from gammaslim.recording.values import ValueNotes

_ATTRIBUTE = "_gammaslim_labels"
_ONE = Fraction(1)
_LOST = "its size enters arithmetic that cannot be followed"


_MOVES = frozenset(
    f"aten.{name}"
    for name in (
        "permute", "transpose", "swapaxes", "clone", "contiguous", "view", "_unsafe_view",
        "reshape", "_reshape_alias", "_reshape_copy", "detach", "alias",
    )
)  # fmt: skip
"""Operators whose rules say themselves what becomes of a dimension that was split."""


Rule = Callable[["Recorder", Op], None]


class Recorder:
    """Follows labels through one run of the network; rules talk to this."""

    def __init__(
        self,
        findings: Findings,
        rules: Callable[[Any], Rule],
        tensor_labels: Mapping[str, TensorLabels],
        packages: frozenset[str],
        *,
        measuring: bool,
        selecting: frozenset[str] = frozenset(),
    ) -> None:
        """``measuring``: this run also fills work, recounts and witnesses (evaluation mode).

        ``packages``: where the network's own code comes from.  ``selecting``: the BatchNorms that
        may drop channels of their input which others keep.
        """
        self.findings = findings
        self.store = findings.store
        self.measuring = measuring
        self.streams = StreamNotes(findings, selecting)
        self.values = ValueNotes(findings, self.dims)
        self.live = True
        self.call: PythonCall = NO_CALL
        self.modules: list[tuple[str, nn.Module]] = []
        self._rules = rules
        self._tensor_labels = tensor_labels
        self._packages = packages
        self._names: dict[int, str] = {}
        self._calls: Counter[Any] = Counter()
        self._known: dict[Any, tuple[Rule, str]] = {}
        self._module_calls: Counter[str] = Counter()
        self._inherited = 0
        self._operator = ""
        self._recounted: tuple[Dims, ...] | None = None

    def close(self) -> None:
        """The run is over: sizes that were kept somewhere are plain integers from now on."""
        self.live = False

    # ---- what rules ask -------------------------------------------------------------------

    def labels(self, tensor: Tensor) -> TensorLabels:
        """The labels of a tensor; one that nobody labelled has fixed dimensions."""
        found: TensorLabels | None = getattr(tensor, _ATTRIBUTE, None)
        return found or TensorLabels((None,) * tensor.ndim)

    def dims(self, tensor: Tensor) -> Dims:
        """Per dimension the labels of a tensor."""
        return self.labels(tensor).dims

    def name_of(self, tensor: Tensor | None) -> str | None:
        """State-dict name of a parameter or buffer, ``None`` for any other tensor."""
        return None if tensor is None else self._names.get(id(tensor))

    @property
    def module(self) -> nn.Module | None:
        """The innermost module that is running."""
        return self.modules[-1][1] if self.modules else None

    @property
    def module_name(self) -> str:
        """Dotted path of the innermost module that is running."""
        return self.modules[-1][0] if self.modules else ""

    def reason(self, text: str) -> int:
        """Number of the reason ``text`` at the present operator, module and source line."""
        source = user_line(self._packages)
        return self.findings.reason(Reason(text, self._operator, self.module_name, source))

    # ---- what rules say -------------------------------------------------------------------

    def give(
        self,
        tensor: Tensor,
        dims: Sequence[LabelArray],
        *,
        zero: bool = False,
        reason: int = 0,
        grid: Grid | None = None,
    ) -> None:
        """Attach labels to an output."""
        labels = TensorLabels(tuple(dims), zero, reason or self._inherited, _layout(tensor), grid)
        if labels.labelled or labels.reason or hasattr(tensor, _ATTRIBUTE):
            setattr(tensor, _ATTRIBUTE, labels)

    def name(self, tensor: Tensor, name: str) -> None:
        """Make ``tensor`` known as the parameter or buffer ``name``, with that one's labels."""
        self._names[id(tensor)] = name
        setattr(tensor, _ATTRIBUTE, self._tensor_labels[name])
        self.values.name(tensor)

    def freeze(self, labels: LabelArray, text: str) -> None:
        """None of these may go, because ``text``."""
        if labels is not None and (labels >= 0).any():
            self.store.freeze(labels, self.reason(text))

    def freeze_all(self, op: Op, text: str) -> None:
        """None of the labels on any argument may go; the outputs are fixed for that reason."""
        frozen = [d for t in op.inputs for d in self.dims(t) if d is not None]
        reason = self.reason(text) if frozen else self._inherited
        for labels in frozen:
            self.store.freeze(labels, reason)
        for out in op.outputs:
            self.give(out, (None,) * out.ndim, reason=reason)

    def unite(self, left: LabelArray, right: LabelArray, reason: int = 0) -> LabelArray:
        """Unite two dimensions that meet index by index.

        Where only one is labelled, its labels meet a size that is fixed for ``reason``.
        """
        if left is None and right is None:
            return None
        if left is None or right is None:
            labels = left if right is None else right
            if labels is None:
                return None
            if not (labels == ELASTIC).all():
                self.store.freeze(labels, reason or self.reason("meets a fixed size"))
            return np.where(labels == ELASTIC, fixed_code(reason), labels)
        return self.store.unite(left, right)

    def depends_on_count(self, labels: IntArray) -> None:
        """The present operator's result depends on how many of these labels there are."""
        self.store.mark_inexact(labels)

    def recount(self, inputs: Sequence[Tensor | Dims]) -> None:
        """Verification must run the present call over the kept channels only.

        One entry for each tensor argument, in order: the tensor, or labels in place of its own.
        """
        self._recounted = tuple(self.dims(t) if isinstance(t, Tensor) else t for t in inputs)

    def work(self, op: Op, coefficient: int, axes: Sequence[tuple[LabelArray, int]]) -> None:
        """A contraction of ``coefficient · Π size`` multiply-accumulates."""
        if not self.measuring:
            return
        for labels, size in axes:
            if labels is None:
                coefficient *= size
        kept = tuple(labels for labels, _ in axes if labels is not None)
        self.findings.work.append(Work(op.name, coefficient, kept, self.module_name))

    # ---- sizes ----------------------------------------------------------------------------

    def tagged(self, tensor: Tensor, value: Any, dim: int | None) -> Any:
        """A shape, or one entry of it, with followed sizes in place of labelled ones."""
        dims = self.dims(tensor)
        if all(d is None for d in dims):
            return value
        if isinstance(value, torch.Size):
            sizes = [self._size(d, n) for d, n in zip(dims, value, strict=True)]
            return torch.Size(sizes)
        return self._size(dims[dim], value) if dim is not None else value

    def _size(self, labels: LabelArray, value: int) -> int:
        if labels is None or not (labels >= 0).any():
            return int(value)
        fixed = int(np.count_nonzero(labels < 0))
        terms = Terms(((labels[labels >= 0], _ONE),), _ONE * fixed)
        return Size(value, terms, self)

    def escaped(self, terms: Terms) -> None:
        """A size left what can be followed: nothing that it depends on may change."""
        self.freeze(terms.labels, _LOST)
        self._pin(terms, "{} enters arithmetic that cannot be followed")

    def counted_parts(self, terms: Terms) -> None:
        """A size is a number of equal parts, of which none goes."""
        self._pin(terms, "{} is a number of equal parts")

    def equated(self, difference: Terms) -> None:
        """The code found two sizes equal, and must always do so."""
        target, share = next(iter(difference.parts), (np.empty(0, dtype=np.int64), _ONE))
        rest = Terms(difference.parts[1:], difference.constant, difference.variables)
        reason = self.reason("the code compares its size")
        self.store.demand(target, rest.scaled(-1 / share), reason)

    def is_pinned(self, variable: Variable) -> bool:
        """Whether this number of a module is known to keep its value."""
        return variable in self.store.pinned

    def _pin(self, terms: Terms, text: str) -> None:
        for variable, _ in terms.variables:
            if variable not in self.store.pinned:
                self.store.pin(variable, self.reason(text.format(variable)))

    def settled(self, given: Given) -> Given:
        """The same size where an attribute in it cannot follow a cut: a constant."""
        if isinstance(given, Size) and given.terms.variables:
            self._pin(given.terms, "{} is used where it cannot follow a cut")
            return int(given) if given.attribute else given
        return given

    def count_escapes(self, tensor: Tensor, *, first_only: bool) -> None:
        """The code asks how many elements a tensor has, in a way that cannot be followed."""
        for labels in self.dims(tensor)[: 1 if first_only else None]:
            self.freeze(labels, _LOST)

    def size_labels(self, given: Given, length: int) -> LabelArray:
        """Labels for a new dimension whose length the code gave as ``given``."""
        if not isinstance(given, Size):
            return None
        if (counted := given.terms.counted) is not None:
            return counted
        labels = self.store.fresh(length)
        self.demand(labels, given)
        return labels

    def demand(self, target: IntArray, given: Size) -> None:
        """After any cut ``target`` must have as many left as the code computes."""
        fixed = int(np.count_nonzero(target < 0))
        terms = given.terms.plus(Terms((), -_ONE * fixed))
        labels = target[target >= 0]
        counted = terms.counted
        if counted is None or not np.array_equal(counted, labels):
            names = ", ".join(str(variable) for variable, _ in given.terms.variables)
            source = f"from {names} " if names else ""
            reason = self.reason(f"the code computes {source}another size than is left")
            self.store.demand(labels, terms, reason)

    def follow(self, target: IntArray, given: Given) -> None:
        """The code gives the length of ``target``; what is a constant cannot shrink."""
        if isinstance(given, Size):
            self.demand(target, given)
        elif given is not None:
            self.freeze(target, f"the size {int(given)} is written as a constant")

    def mix(self, labels: TensorLabels) -> None:
        """Something is done with a dimension that was split, besides moving it about."""
        if labels.grid is not None:
            self.store.mark_mixed(labels.dims[labels.grid.inner])

    def tie(
        self, rows: IntArray, text: str, *, column: LabelArray = None, followed: bool = False
    ) -> None:
        """Keep the rows equal: the same column of every row lives or dies together.

        ``column`` holds a label for each column; ``followed``: see :class:`Partition`.
        """
        partition = Partition((rows,), (column,), whole=False, reason=self.reason(text))
        self.store.partition(replace(partition, followed=followed))

    def leaves(self, tensor: Tensor, way: str) -> None:
        """The code takes a tensor's data to where no operator is seen; it keeps no labels."""
        self.values.leaves()
        for labels in self.dims(tensor):
            self.freeze(labels, f"its data leaves PyTorch through {way}")
        if hasattr(tensor, _ATTRIBUTE):
            delattr(tensor, _ATTRIBUTE)

    def replaced(self, tensor: Tensor, data: Tensor) -> None:
        """The code makes ``tensor`` hold other data, and says so to no operator."""
        for one in (tensor, data):
            self.leaves(one, "an assignment to .data")

    # ---- what the modes call --------------------------------------------------------------

    def operator(self, func: Any, arguments: Mapping[str, Any], result: Any) -> None:
        """Apply the rule of one operator."""
        outputs = tuple(tensors_in((result,)))
        inputs = list(tensors_in(arguments.values()))
        op = Op(func, arguments, outputs, inputs)
        self._inherited = 0
        for tensor in inputs:
            if (name := self._names.get(id(tensor))) is not None:
                self.findings.reached.add(name)
            found = getattr(tensor, _ATTRIBUTE, None)
            self._inherited = self._inherited or (found.reason if found is not None else 0)
        self._calls[func] += 1
        if func not in self._known:
            self._known[func] = self._rules(func), op.name
        rule, self._operator = self._known[func]
        self._apply_rule(rule, op)
        if self._operator not in _MOVES:
            for tensor in inputs:
                found = getattr(tensor, _ATTRIBUTE, None)
                if found is not None and found.grid is not None:
                    self.mix(found)
        self._write_recount(op)
        self.values.operator(self.module_name, op)
        if self.streams.selecting:
            self.streams.note(map(self.dims, op.inputs), map(self.dims, op.outputs))
        self._operator = ""

    def _apply_rule(self, rule: Rule, op: Op) -> None:
        """A rule that fails must not fail the user's network: freeze, and say so."""
        try:
            rule(self, op)
        except Exception as error:  # noqa: BLE001 - whatever a rule did not foresee
            text = f"the rule for {op.name} failed ({type(error).__name__}: {error})"
            self.findings.notes.append(f"{text}; please tell its author. Its channels are kept.")
            self.freeze_all(op, text)

    def _write_recount(self, op: Op) -> None:
        """Record what :meth:`recount` asked for, now that the outputs have their labels."""
        inputs, self._recounted = self._recounted, None
        if self.measuring and inputs is not None:
            outputs = tuple(self.dims(t) for t in op.outputs)
            call = self._calls[op.func] - 1
            self.findings.recounts.append(Recount(str(op.func), call, inputs, outputs))

    def enter_module(self, name: str, module: nn.Module) -> None:
        """A module's forward begins."""
        self.modules.append((name, module))

    def leave_module(self, name: str, module: nn.Module, output: Any) -> None:
        """A module's forward ends; leaf outputs are witnesses for verification."""
        self.modules.pop()
        self.values.layer(name, module, output)
        if isinstance(module, NORM_BASE) and isinstance(output, Tensor) and output.ndim > 1:
            channels = self.dims(output)[1]
            if channels is not None:
                self.findings.norms[name] = channels
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and isinstance(output, Tensor):
            last = self.dims(output)[-len(module.normalized_shape) :]
            self.findings.normalized.setdefault(name, last)
        if self.measuring and isinstance(output, Tensor) and next(module.children(), None) is None:
            call = self._module_calls[name]
            self._module_calls[name] += 1
            value = self.values.of(output)
            self.findings.witnesses.append(Witness(name, call, self.dims(output), value))


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides, which a sparse or nested tensor does not have."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return (), ()
    return tuple(tensor.shape), tensor.stride()
