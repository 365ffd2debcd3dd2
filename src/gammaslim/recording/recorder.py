"""The recorder: the state of one labelled run, in which labels ride along with every operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammaslim.arrays import IntArray
from gammaslim.channels import Reason, Witness
from gammaslim.labels import LabelArray, Terms, Variable
from gammaslim.network import NORM_BASE, user_line
from gammaslim.recording.findings import (
    Dims,
    Findings,
    Grid,
    TensorLabels,
)
from gammaslim.recording.ops import Op
from gammaslim.recording.sizes import NO_CALL, PythonCall, Size
from gammaslim.recording.streams import StreamNotes
from gammaslim.recording.values import ValueNotes

_ATTRIBUTE = "_gammaslim_labels"
_ONE = Fraction(1)
_LOST = "its size enters arithmetic that cannot be followed"


class Recorder:
    """Keeps what one run of the network knows of its tensors, and whom it asks for what.

    ``call``: the torch function that the network's code is calling.  ``operator`` names the ATen
    operator whose rule is at work, ``inherited`` the reason for which its inputs are fixed.
    """

    def __init__(
        self,
        findings: Findings,
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
        self.operator = ""
        self.inherited = 0
        self._here = 0
        self._tensor_labels = tensor_labels
        self._packages = packages
        self._names: dict[int, str] = {}
        self._module_calls: Counter[str] = Counter()

    def close(self) -> None:
        """The run is over: sizes that were kept somewhere are plain integers from now on."""
        self.live = False

    # ---- what is known --------------------------------------------------------------------

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
        return self.findings.reason(Reason(text, self.operator, self.module_name, source))

    def here(self) -> int:
        """Number of the present operator, module and source line, as the reason of a coupling."""
        if not self._here:
            self._here = self.reason("")
        return self._here

    # ---- what is said ---------------------------------------------------------------------

    def begin(self, operator: str, inputs: Sequence[Tensor]) -> None:
        """An operator is called, and what is said from now on is said of it."""
        self.operator, self.inherited, self._here = operator, 0, 0
        for tensor in inputs:
            if (name := self._names.get(id(tensor))) is not None:
                self.findings.reached.add(name)
            found: TensorLabels | None = getattr(tensor, _ATTRIBUTE, None)
            self.inherited = self.inherited or (found.reason if found is not None else 0)

    def give(
        self,
        tensor: Tensor,
        dims: Sequence[LabelArray],
        *,
        zero: bool = False,
        reason: int = 0,
        grid: Grid | None = None,
    ) -> None:
        """Attach labels to a tensor, one entry for each of its dimensions."""
        layout = _layout(tensor)
        labels = TensorLabels(tuple(dims), zero, reason or self.inherited, layout, grid)
        if layout is not _NO_LAYOUT:
            _check_lengths(labels.dims, layout[0])
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
        reason = self.reason(text) if frozen else self.inherited
        for labels in frozen:
            self.store.freeze(labels, reason)
        for out in op.outputs:
            self.give(out, (None,) * out.ndim, reason=reason)

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
        self.pin(terms, "{} enters arithmetic that cannot be followed")

    def counted_parts(self, terms: Terms) -> None:
        """A size is a number of equal parts, of which none goes."""
        self.pin(terms, "{} is a number of equal parts")

    def equated(self, difference: Terms) -> None:
        """The code found two sizes equal, and must always do so."""
        target, share = next(iter(difference.parts), (np.empty(0, dtype=np.int64), _ONE))
        rest = Terms(difference.parts[1:], difference.constant, difference.variables)
        reason = self.reason("the code compares its size")
        self.store.demand(target, rest.scaled(-1 / share), reason)

    def is_pinned(self, variable: Variable) -> bool:
        """Whether this number of a module is known to keep its value."""
        return variable in self.store.pinned

    def pin(self, terms: Terms, text: str) -> None:
        """The numbers of modules that a size is made of keep their values."""
        for variable, _ in terms.variables:
            if variable not in self.store.pinned:
                self.store.pin(variable, self.reason(text.format(variable)))

    def count_escapes(self, tensor: Tensor, *, first_only: bool) -> None:
        """The code asks how many elements a tensor has, in a way that cannot be followed."""
        for labels in self.dims(tensor)[: 1 if first_only else None]:
            self.freeze(labels, _LOST)

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

    def mix(self, tensor: Tensor) -> None:
        """Something is done with dimensions that were split, besides moving them about."""
        found: TensorLabels | None = getattr(tensor, _ATTRIBUTE, None)
        if found is not None and found.grid is not None:
            self.store.mark_mixed(found.dims[found.grid.inner])

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

    # ---- modules --------------------------------------------------------------------------

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


def _check_lengths(dims: Dims, shape: tuple[int, ...]) -> None:
    fits = len(dims) == len(shape)
    for labels, size in zip(dims, shape, strict=False):
        fits = fits and (labels is None or len(labels) == size)
    if not fits:
        found = [None if labels is None else len(labels) for labels in dims]
        raise ValueError(f"labels of lengths {found} do not fit an output of shape {list(shape)}")


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides, which a sparse or nested tensor does not have."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return _NO_LAYOUT
    return tuple(tensor.shape), tensor.stride()


_NO_LAYOUT: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
