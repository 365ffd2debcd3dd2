"""One operator call: what its rule may ask, and what it may say.

Every rule is a function of one :class:`OperatorCall`, those in ``rules/`` and a user's own alike.
``docs/rules.md`` explains it by example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from torch import Tensor, nn

from gammaslim.arrays import IntArray
from gammaslim.channels import Operation, Work
from gammaslim.labels import ELASTIC, LabelArray, Partition, fixed_code, or_fixed
from gammaslim.recording.findings import ConvSizes, Dims, Grid
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.recording.sizes import Given, Size

ALWAYS: tuple[Tensor, ...] = ()
"""``give(..., zero=ALWAYS)``: a removed channel is zero there, whatever the inputs are."""


class OperatorCall:
    """One call of an operator: what its rule may ask, and what it may say.

    ``name`` is the operator's name, ``inputs`` are all its tensor arguments and ``outputs`` all the
    tensors that it returned; ``call["x"]`` is the argument that its schema calls ``x``.  Tensors
    may be without data: a rule reads their shapes, never their values.
    """

    def __init__(self, recorder: Recorder, op: Op, name: str) -> None:
        """For the call ``op``, in a run that ``recorder`` keeps."""
        self._recorder = recorder
        self._op = op
        self._spoken: list[LabelArray] = []
        self._given: set[int] = set()
        self.name = name
        self.inputs: tuple[Tensor, ...] = tuple(op.inputs)
        self.outputs: tuple[Tensor, ...] = op.outputs
        self.python = recorder.call
        self.recounted: tuple[Dims, ...] | None = None
        self.grid_followed = False

    # ---- what a rule asks -----------------------------------------------------------------

    def __getitem__(self, argument: str) -> Any:
        """The argument of that name."""
        return self._op.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument of that name, or ``default`` where this overload has none."""
        return self._op.arguments.get(argument, default)

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    @property
    def operator(self) -> str:
        """The name without its namespace, and without the ``_`` of an in-place twin."""
        return self.name.rpartition(".")[2].rstrip("_")

    @property
    def module(self) -> nn.Module | None:
        """The innermost module that is running."""
        return self._recorder.module

    def labels(self, tensor: Tensor) -> Dims:
        """The labels of a tensor: per dimension an array with one integer per index, or ``None``.

        Indices of one label live and die together.  Arrays may be cut, joined and reordered, but
        not computed with.  ``None`` is a dimension of which nothing may go.
        """
        return self._recorder.labels(tensor).dims

    def zero(self, *tensors: Tensor | None) -> bool:
        """Whether a removed channel is exactly zero in all of these (``None`` is left out)."""
        for tensor in tensors:
            if tensor is not None and not self._recorder.labels(tensor).zero:
                return False
        return True

    def fixed_for(self, *tensors: Tensor) -> int:
        """Number of the reason for which unlabelled dimensions of these tensors are fixed, or 0."""
        for tensor in tensors:
            if reason := self._recorder.labels(tensor).reason:
                return reason
        return 0

    def or_fixed(self, labels: LabelArray, length: int, *, by: Tensor | None = None) -> IntArray:
        """The labels of a dimension; where there are none, fixed ones, as those of ``by`` are."""
        reason = 0 if by is None else self.fixed_for(by)
        return or_fixed(labels, length, fixed_code(reason))

    def reason(self, why: str) -> int:
        """The number under which a reason is kept, with the operator, module and line."""
        return self._recorder.reason(why)

    def layout(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides of a tensor when it got its labels."""
        return self._recorder.labels(tensor).layout

    def named(self, tensor: Tensor | None) -> str | None:
        """State-dict name of a parameter or buffer; ``None`` for any other tensor."""
        return self._recorder.name_of(tensor)

    # ---- what a rule says -----------------------------------------------------------------

    def give(
        self,
        output: Tensor,
        labels: Sequence[LabelArray],
        *,
        zero: bool | Sequence[Tensor] = False,
        reason: int = 0,
        grid: Grid | None = None,
    ) -> None:
        """The labels of an output, one entry per dimension.

        ``zero``: where a removed channel is zero in all inputs (or in all of the tensors that
        stand here), it is zero in this output.  ``reason`` numbers why unlabelled dimensions are
        fixed; ``grid``: see :meth:`follow_grid`.
        """
        self._spoken += labels
        self._given.add(id(output))
        holds = zero is not False and self.zero(*(self.inputs if zero is True else zero))
        self._recorder.give(output, labels, zero=holds, reason=reason, grid=grid)

    @overload
    def unite(self, left: IntArray, right: IntArray, reason: int = 0) -> IntArray: ...
    @overload
    def unite(self, left: LabelArray, right: LabelArray, reason: int = 0) -> LabelArray: ...
    def unite(self, left: LabelArray, right: LabelArray, reason: int = 0) -> LabelArray:
        """The i-th index of both lives or dies together; gives the labels of what comes of them.

        Where only one is labelled, its labels meet a size that is fixed for ``reason``.
        """
        if left is not None and right is not None:
            if left.shape != right.shape:
                raise ValueError(f"{len(left)} labels cannot be united with {len(right)}")
            self._spoken += (left, right)
            return self._recorder.store.unite(left, right, self._recorder.here)
        labels = left if right is None else right
        if labels is None:
            return None
        self._spoken.append(labels)
        if not (labels == ELASTIC).all():
            why = reason or self.reason("meets a fixed size")
            self._recorder.store.freeze(labels, why)
        return np.where(labels == ELASTIC, fixed_code(reason), labels)

    # Shapes [2, 8, 4, 4] and [8, 1, 1]: of the second, dimension 0 meets dimension 1 of the first,
    # index by index, and these unite. Its other two are broadcast: all indices meet the one, which
    # couples nothing, so the result has the first tensor's labels there.
    def broadcast(self, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Dims:
        """Labels of ``tensors`` broadcast to ``shape``, right-aligned, after uniting them."""
        dims: list[LabelArray] = [None] * len(shape)
        operands = [(t.shape, self.labels(t), self.fixed_for(t)) for t in tensors]
        for position, size in enumerate(shape):
            met = [
                (labels[own], reason)
                for sizes, labels, reason in operands
                if (own := position - len(shape) + len(sizes)) >= 0 and sizes[own] == size
            ]
            if size == 1 or not met:
                continue
            (united, why), *others = met
            for labels, reason in others:
                why = why if united is None else reason
                united = self.unite(united, labels, why)
            dims[position] = united
        return tuple(dims)

    def freeze(self, labels: LabelArray, why: str) -> None:
        """None of these indices may go, because ``why``."""
        self._spoken.append(labels)
        self._recorder.freeze(labels, why)

    def freeze_all(self, why: str) -> None:
        """None of the labels on any argument may go; the outputs are fixed for that reason."""
        self._recorder.freeze_all(self._op, why)

    def counts(self, labels: LabelArray, inputs: Sequence[Tensor | Dims] | None = None) -> None:
        """The result depends on how many of these indices there are, as a mean over them does.

        They may go, but inexactly: the reference is this operator over the kept ones only.
        ``inputs``: see :meth:`recount`.
        """
        if labels is not None:
            self._spoken.append(labels)
            self._recorder.store.mark_inexact(labels)
            self.recount(inputs)

    def recount(self, inputs: Sequence[Tensor | Dims] | None = None) -> None:
        """Verification must run this call over the kept channels only.

        One entry for each tensor argument, in order: the tensor, or labels in place of its own.
        """
        tensors = self.inputs if inputs is None else inputs
        self.recounted = tuple(self.labels(t) if isinstance(t, Tensor) else t for t in tensors)

    def work(self, coefficient: int, axes: Sequence[tuple[LabelArray, int]]) -> None:
        """A contraction of ``coefficient · Π size`` multiply-accumulates."""
        if not self._recorder.measuring:
            return
        for labels, size in axes:
            if labels is None:
                coefficient *= size
        kept = tuple(labels for labels, _ in axes if labels is not None)
        work = Work(self.name, coefficient, kept, self._recorder.module_name)
        self._recorder.findings.work.append(work)

    # ---- what only the rules of layers with weights say ------------------------------------

    def scales(self, weight: Tensor | None, shift: Tensor | None) -> None:
        """A BatchNorm multiplies by ``weight``: if it has a name, its elements are scales."""
        if (name := self.named(weight)) is not None:
            self._recorder.findings.scales[name] = self.named(shift)

    def selects(self, channels: LabelArray, weight: Tensor | None) -> bool:
        """Whether the running BatchNorm may drop ``channels`` of its input which others keep."""
        reads = None if weight is None else self.labels(weight)[0]
        path = self._recorder.module_name
        # Of a BatchNorm module only: InstanceNorm repeats its weight for every image.
        own = self.named(weight) == f"{path}.weight"
        return self._recorder.streams.select(
            path if own else "", channels, reads, self._recorder.here
        )

    def picks(self, stream: LabelArray, size: int, places: IntArray) -> LabelArray:
        """The running BatchNorm's own index takes ``places`` of a stream; the labels it gets."""
        return self._recorder.streams.pick(stream, size, places)

    def kernel(self, labels: LabelArray) -> None:
        """This dimension of a weight is the size of a kernel, and no channel."""
        self.freeze(labels, "kernel size of a convolution")
        if labels is not None:
            self._recorder.findings.kernels.append(labels)

    def convolves(self, inputs: IntArray, outputs: IntArray, partition: Partition | None) -> None:
        """What is behind ``in_channels``, ``out_channels`` and ``groups`` of the running module."""
        sizes = ConvSizes(inputs, outputs, partition)
        self._recorder.findings.convolutions[self._recorder.module_name] = sizes

    def normalizes(self, dims: Dims) -> None:
        """What is behind ``normalized_shape`` of the running module."""
        self._recorder.findings.normalized[self._recorder.module_name] = dims

    # ---- parts, orders and sizes ----------------------------------------------------------

    def fresh(self, length: int) -> IntArray:
        """New labels, which nothing else carries yet."""
        return self._recorder.store.fresh(length)

    def tie(
        self, rows: IntArray, why: str, *, column: LabelArray = None, followed: bool = False
    ) -> None:
        """Keep the rows equal: the same column of every row lives or dies together.

        ``column`` holds a label for each column; ``followed``: see :class:`Partition`.
        """
        reason = self.reason(why)
        self.partition(Partition((rows,), (column,), whole=False, reason=reason, followed=followed))

    def partition(self, partition: Partition) -> Partition:
        """Equal parts stay equal; gives the record of it, which may be one that says the same."""
        self._spoken += (*partition.rows, *partition.columns)
        return self._recorder.store.partition(partition)

    def derive(self, result: IntArray, operation: Operation, *operands: IntArray) -> None:
        """The order of ``result`` comes of that of the operands by ``operation``, after any cut."""
        self._recorder.store.derive(result, operation, *operands)

    def follow_grid(self, tensor: Tensor) -> Grid | None:
        """Two dimensions of a tensor that were one; the rule says itself what becomes of them.

        It gives the output a grid where they are only moved, and says :meth:`mix` where not.
        Every operator whose rule does not ask this mixes them.
        """
        self.grid_followed = True
        return self._recorder.labels(tensor).grid

    def mix(self, tensor: Tensor) -> None:
        """Something is done with two dimensions that were one, besides moving them about."""
        self._recorder.mix(tensor)

    def written(self, argument: str) -> Any:
        """The argument as the network's own code gave it to the torch function it called."""
        return self.python.written(argument)

    def given(self, argument: str, values: Sequence[int]) -> list[Given]:
        """How the code gave each of the operator's sizes ``values``: :meth:`PythonCall.given`."""
        return self.python.given(argument, values)

    def shape_of(self, tensor: Tensor) -> list[Given]:
        """The shape of a tensor, as sizes that follow its labels."""
        return list(self._recorder.tagged(tensor, tensor.shape, None))

    def follow(self, target: IntArray, given: Given) -> None:
        """The code gives the length of ``target``; what is a constant cannot shrink."""
        self._spoken.append(target)
        if isinstance(given, Size):
            self._recorder.demand(target, given)
        elif given is not None:
            self.freeze(target, f"the size {int(given)} is written as a constant")

    def size_labels(self, given: Given, length: int) -> LabelArray:
        """Labels for a new dimension whose length the code gave as ``given``."""
        if not isinstance(given, Size):
            return None
        if (counted := given.terms.counted) is not None:
            return counted
        labels = self.fresh(length)
        self._recorder.demand(labels, given)
        return labels

    def settled(self, given: Given) -> Given:
        """The same size where an attribute in it cannot follow a cut: a constant."""
        if isinstance(given, Size) and given.terms.variables:
            self._recorder.pin(given.terms, "{} is used where it cannot follow a cut")
            return int(given) if given.attribute else given
        return given

    def stays(self, given: Given, why: str) -> None:
        """A number of equal parts: what it is computed from keeps its value."""
        if isinstance(given, Size):
            self.freeze(given.terms.labels, why)
            self._recorder.counted_parts(given.terms)

    # ---- what the rule has left out -------------------------------------------------------

    def freeze_unspoken(self) -> None:
        """Whatever the rule has said nothing of stays."""
        if any(id(output) not in self._given for output in self.outputs):
            self.freeze_all(f"the rule for {self.name} leaves out an output")
        spoken = [labels.ravel() for labels in self._spoken if labels is not None]
        said = np.concatenate([np.empty(0, dtype=np.int64), *spoken])
        for tensor in self.inputs:
            for labels in self.labels(tensor):
                if labels is not None:
                    missed = labels[~np.isin(labels, said)]
                    self.freeze(missed, f"the rule for {self.name} leaves it out")


Rule = Callable[[OperatorCall], None]
"""What an operator does to labels."""
