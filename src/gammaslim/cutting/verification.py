"""The law, checked by running: pruned(x) equals masked(x), layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from gammaslim.arrays import IntArray, kept_mask
from gammaslim.channels import ChannelGraph, Cut
from gammaslim.cutting.observing import OUTPUT, Key, Recounting, gathered, run_observed
from gammaslim.network import (
    SEED,
    call_arguments,
    copied,
    doubled,
    fake_copy,
    map_tensors,
    named_aliases,
    named_tensors,
    preserved_attributes,
    preserved_random_state,
    quiet_fake_tensors,
    training_mode,
)

TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}
"""Largest drift that rounding may cause, by the type of the compared output."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison found: the largest drift, where it first exceeded, and a sentence."""

    drift: float
    blamed: str
    compared: int
    message: str

    @property
    def holds(self) -> bool:
        """Whether the law holds everywhere it was compared."""
        return not self.blamed


@dataclass(frozen=True)
class Evidence:
    """Outputs of one run, in the order of the run: leaf modules' and the network's own."""

    seen: Mapping[Key, Tensor]

    def of(self, path: str) -> list[Tensor]:
        """What one module has given, call by call."""
        return [output for (name, _), output in self.seen.items() if name == path]


@dataclass(frozen=True)
class _Difference:
    """How one output of the cut network differs from what was expected of it."""

    drift: float
    text: str


def reference(
    model: nn.Module,
    cut: Cut,
    masked: Mapping[str, Tensor],
    *,
    nudge: float = 0.0,
    double: bool = False,
) -> Evidence:
    """Run the masked network and keep what the surviving channels of every layer hold.

    Operators that depend on how many channels there are run over the surviving ones only.
    ``nudge`` multiplies inputs and weights by 1 + nudge · noise, to see what rounding does;
    ``double`` computes in float64.
    """
    graph, leaving = cut.graph, cut.leaving
    recounts = {
        (r.operator, r.call): r
        for r in graph.recounts
        if not any(_emptied(ids, cut) for dims in (*r.inputs, *r.outputs) for ids in dims or ())
    }
    mode = Recounting(recounts, cut.survivors) if recounts else contextlib.nullcontext()
    witnesses = {(w.module, w.call): w for w in graph.witnesses}

    def shrink(key: Key, output: Tensor) -> Tensor | None:
        layer = graph.flow.around(key[0])
        if key[0] in leaving.idle:
            return None  # nobody reads it
        if (remnant := leaving.remnants.get(layer)) is not None:
            if not remnant.told or key[0] != layer:
                return None
            own = graph.flow.layers[layer].dims
        else:
            witness = witnesses.get(key)
            if key[0] != OUTPUT and (witness is None or witness.value in leaving.lost):
                return None
            own = witness.dims if witness else ()
        if any(_emptied(ids, cut) for ids in own):
            return None
        kept = gathered(output, own, cut.survivors)
        return copied(output) if kept is output else kept

    precise = _doubled if double else _as_it_is
    inputs = map_tensors(graph.example_inputs, lambda t: precise(_nudged(_informative(t), nudge)))
    state = {**(_state_in_double(model) if double else {}), **masked}
    state = {name: precise(_nudged(tensor, nudge)) for name, tensor in state.items()}
    seen = run_observed(model, inputs, state, mode, shrink, also=leaving.remnants)
    return Evidence({key: value for key, value in seen.items() if value is not None})


def _emptied(ids: IntArray | None, cut: Cut) -> bool:
    return ids is not None and not kept_mask(ids, cut.keep).any()


@dataclass(frozen=True)
class Noise:
    """What rounding does: by how much it moves each compared output of the masked network.

    ``double``: in float64, in which the comparison is made too.
    """

    moved: Mapping[Key, float]
    double: bool


def rounding(model: nn.Module, cut: Cut, masked: Mapping[str, Tensor]) -> tuple[Evidence, Noise]:
    """The masked network once more, and how far rounding alone moves each compared output.

    Where attention saturates, float32 may flip a choice that float64 does not.  Where outputs
    cancel (a mean after InstanceNorm) they are nothing but noise, and no fixed tolerance means
    anything.  A network whose code fixes the type of some tensor stays in its own.
    """
    double = True
    try:
        plain = reference(model, cut, masked, double=True)
    except Exception:  # noqa: BLE001 - any failure of the user's own code
        double = False
        plain = reference(model, cut, masked)
    epsilon = max(
        (torch.finfo(t.dtype).eps for t in plain.seen.values() if t.is_floating_point()), default=0
    )
    moved = reference(model, cut, masked, nudge=epsilon, double=double)
    found = {key: drift_between(plain.seen[key], moved.seen[key]) for key in plain.seen}
    return plain, Noise({key: d for key, d in found.items() if np.isfinite(d)}, double)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _state_in_double(model: nn.Module) -> dict[str, Tensor]:
    tensors = named_tensors(model)
    owned = tensors.keys() - named_aliases(tensors).keys()
    return {name: _doubled(tensors[name].detach()) for name in owned}


def compare(
    model: nn.Module,
    graph: ChannelGraph,
    expected: Evidence,
    noise: Noise | None = None,
) -> Verdict:
    """Run the cut network and compare every leaf module's and the network's output.

    ``noise`` is what :func:`rounding` measured; ten times that is allowed where it is more than
    the tolerance of the type.
    """
    double, moved = (noise.double, noise.moved) if noise else (False, {})

    def look(key: Key, have: Tensor) -> _Difference | None:
        want = expected.seen.get(key)
        if want is None:
            return None
        if have.shape != want.shape:
            text = f"has shape {list(want.shape)} masked, {list(have.shape)} pruned"
            return _Difference(float("inf"), text)
        drift = drift_between(want, have)
        return _Difference(drift, f"differs by {drift:.1e} of its scale")

    precise = _doubled if double else _as_it_is
    inputs = map_tensors(graph.example_inputs, lambda t: precise(_informative(t)))
    state = _state_in_double(model) if double else {}
    found = run_observed(model, inputs, state, contextlib.nullcontext(), look)
    missing = _Difference(float("inf"), "is not there any more")
    largest, blamed, message = 0.0, "", ""
    for key, want in expected.seen.items():
        difference = found.get(key) or missing
        tolerance = TOLERANCES.get(torch.float32 if double else want.dtype, 1e-4)
        allowed = max(tolerance, 10 * moved.get(key, 0.0))
        if not difference.drift <= allowed and not blamed:
            blamed, message = key[0], f"the output of {key[0]!r} (call {key[1]}) {difference.text}"
        if difference.drift > allowed or allowed == tolerance:
            largest = max(largest, difference.drift)  # what is only noise has no drift to report
    return Verdict(largest, blamed, len(expected.seen), message)


def drift_between(want: Tensor, have: Tensor) -> float:
    """``max|a − b| / max|a|``; infinite where either is not finite."""
    if want.numel() == 0:
        return 0.0
    if not want.is_floating_point():
        return 0.0 if torch.equal(want, have) else float("inf")
    if want.dtype.itemsize < torch.float32.itemsize:
        want, have = want.float(), have.float()
    difference, scale = _largest(want - have), _largest(want)
    if not (np.isfinite(difference) and np.isfinite(scale)):
        return float("inf")
    return difference / scale if scale > 0 else (0.0 if difference == 0 else float("inf"))


def _largest(tensor: Tensor) -> float:
    low, high = torch.aminmax(tensor)  # either is NaN if anything is
    return float(torch.maximum(-low, high))


def training_failure(model: nn.Module, graph: ChannelGraph) -> Exception | None:
    """The error of the cut network's training-mode forward, if it has one.

    Fake tensors show whether all shapes fit; a network that reads values runs on copies instead.  A
    batch of one is doubled where BatchNorm refuses it.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    twice = map_tensors(graph.example_inputs, doubled)
    errors: list[Exception] = []
    for mode, copy in ((fake, partial(fake_copy, fake)), (contextlib.nullcontext(), copied)):
        for example in (graph.example_inputs, twice):
            error = _training_error(model, example, mode, copy)
            if error is None:
                return None
            errors.append(error)
    return errors[0]


def _training_error(
    model: nn.Module, example: Any, mode: Any, copy: Callable[[Tensor], Tensor]
) -> Exception | None:
    tensors = named_tensors(model)
    aliases = named_aliases(tensors)
    with (
        preserved_random_state(),
        training_mode(model, training=True),
        preserved_attributes(model),
        quiet_fake_tensors(),
        torch.no_grad(),
    ):
        state = {n: copy(t) for n, t in tensors.items() if n not in aliases}
        args, kwargs = map_tensors(call_arguments(model, example), copy)
        try:
            with mode:
                functional_call(model, state, args, kwargs)
        except Exception as error:  # noqa: BLE001 - any failure of the user's own code
            return error
    return None


def _informative(tensor: Tensor) -> Tensor:
    """Noise in place of a constant example such as zeros, which would prove little."""
    varied = bool((tensor != tensor.flatten()[:1]).any()) if tensor.numel() else True
    if varied or not tensor.is_floating_point():
        return copied(tensor)
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(SEED))
    return noise.to(tensor)


def _nudged(tensor: Tensor, amount: float) -> Tensor:
    if not amount or not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(SEED))
    return tensor * (1 + amount * noise.to(tensor))
