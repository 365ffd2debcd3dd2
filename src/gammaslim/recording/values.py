"""Values, while the network runs: which operator makes what of what."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gammaslim.arrays import Dims
from gammaslim.channels import WORLD, Call, Layer
from gammaslim.labels import or_fixed
from gammaslim.network import constant_dim, is_batch
from gammaslim.recording.findings import Findings
from gammaslim.recording.ops import Op

_ATTRIBUTE = "_gammaslim_memory"
"""On a tensor: the number of the run and of the memory in it; plain numbers can be pickled."""

_RUNS = itertools.count(1)


@dataclass(frozen=True)
class _Kind:
    """What is known of an operator: which of its outputs are views, whether it draws numbers."""

    name: str
    views: tuple[bool, ...]
    random: bool

    @classmethod
    def of(cls, func: Any) -> _Kind:
        """Read off its schema."""
        schema = getattr(func, "_schema", None)
        aliases = [each.alias_info for each in schema.returns] if schema is not None else []
        views = tuple(alias is not None and not alias.is_write for alias in aliases)
        random = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        return cls(str(func), views, random)


class ValueNotes:
    """What one run notes of values.

    Tensors that share memory share a key, and a key's present value is the last that was written:
    views see what is written to any of them.  A tensor of unknown origin is the world's.
    """

    def __init__(self, findings: Findings, dims: Callable[[Tensor], Dims]) -> None:
        """``dims``: the labels of a tensor."""
        self._findings, self._dims = findings, dims
        self._present: list[int] = []
        self._run = next(_RUNS)
        self._parameters: set[int] = set()
        self._kinds: dict[Any, _Kind] = {}

    def name(self, tensor: Tensor) -> None:
        """A tensor of the network's own: a constant."""
        self._parameters.add(id(tensor))

    def operator(self, module: str, op: Op) -> None:
        """Note a call: what it reads, and which values it makes."""
        kind = self._kinds.get(op.func)
        if kind is None:
            kind = self._kinds[op.func] = _Kind.of(op.func)
        taken = [v for t in op.inputs if (v := self.of(t)) is not None]
        made, written = list[int](), list[int]()
        for index, tensor in enumerate(op.outputs):
            if kind.views and kind.views[min(index, len(kind.views) - 1)] and op.inputs:
                base = op.inputs[0]
                if (key := self._key(base)) is not None:
                    setattr(tensor, _ATTRIBUTE, (self._run, key))
                elif id(base) in self._parameters:  # a view of a parameter is a constant
                    self._make(tensor, [])
            else:
                made.append(self._make(tensor, written))
        if not op.outputs and taken:
            self._findings.followed = False  # a number for Python code, or a hidden write
        if made or taken:
            taken = tuple(dict.fromkeys([*taken, *written]))
            call = Call(module, kind.name, taken, tuple(made), tuple(written), kind.random)
            self._findings.calls.append(call)

    def layer(self, path: str, module: nn.Module, output: Any) -> None:
        """Note what a layer that may leave has given."""
        if not module._parameters or path in self._findings.layers:  # noqa: SLF001
            return
        if not isinstance(output, Tensor) or (dim := constant_dim(module)) is None:
            return
        dims = self._dims(output)
        if is_batch(len(dims), module):
            labels = dims[dim]
            # Every look at a tensor's shape is a call that the trace follows: as few as possible.
            size = int(output.shape[dim]) if labels is None else 0
            self._findings.layers[path] = Layer(or_fixed(labels, size), len(dims), dim)

    def returned(self, tensor: Tensor) -> None:
        """Part of what the network gives."""
        value = self.of(tensor)
        if value is not None:
            self._findings.sinks.add(value)

    def leaves(self) -> None:
        """Data has left for where nobody can follow it, and may come back."""
        self._findings.followed = False

    def of(self, tensor: Tensor) -> int | None:
        """The present value of a tensor; ``None`` for one of the network's own, as it was."""
        if id(tensor) in self._parameters:
            return None
        key = self._key(tensor)
        return WORLD if key is None else self._present[key]

    def _key(self, tensor: Tensor) -> int | None:
        """The number of a tensor's memory; what another run said of it does not count."""
        run, key = getattr(tensor, _ATTRIBUTE, (None, None))
        return key if run == self._run else None

    def _make(self, tensor: Tensor, written: list[int]) -> int:
        findings = self._findings
        findings.values.append([labels for labels in self._dims(tensor) if labels is not None])
        value = len(findings.values) - 1
        key = self._key(tensor)
        self._parameters.discard(id(tensor))  # a buffer that is written to is none any more
        if key is None:
            setattr(tensor, _ATTRIBUTE, (self._run, len(self._present)))
            self._present.append(value)
        else:
            written.append(self._present[key])
            self._present[key] = value
        return value
