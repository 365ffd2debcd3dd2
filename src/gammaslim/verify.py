"""The law, checked by running: pruned(x) equals masked(x), layer by layer."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gammaslim.calling import call_arguments, copied, doubled, map_tensors, output_tensors
from gammaslim.fakes import fake_copy, quiet_fake_tensors
from gammaslim.graph import BoolArray, ChannelGraph, IntArray, Recount
from gammaslim.modules import (
    SEED,
    first_paths,
    named_aliases,
    named_tensors,
    preserved_attributes,
    preserved_random_state,
    training_mode,
)

OUTPUT = "network output"

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


Key = tuple[str, int]
"""Which output: a leaf module's path, or :data:`OUTPUT`, and the number of the call."""


Survivors = Callable[[IntArray], IntArray]
"""From one dimension's channel ids to the indices that survive, in the cut network's order."""


@dataclass(frozen=True)
class Evidence:
    """Outputs of one run, in the order of the run: leaf modules' and the network's own."""

    seen: Mapping[Key, Tensor]


@dataclass(frozen=True)
class _Difference:
    """How one output of the cut network differs from what was expected of it."""

    drift: float
    text: str


def reference(
    model: nn.Module,
    graph: ChannelGraph,
    keep: BoolArray,
    masked: Mapping[str, Tensor],
    *,
    nudge: float = 0.0,
) -> Evidence:
    """Run the masked network and keep what the surviving channels of every layer hold.

    Operators that depend on how many channels there are run over the surviving ones only.
    ``nudge`` multiplies inputs and weights by 1 + nudge · noise, to see what rounding does.
    """
    recounts = {(r.operator, r.call): r for r in graph.recounts}
    survivors = graph.survivors(keep)
    mode = _Recounting(recounts, survivors) if recounts else contextlib.nullcontext()
    dims = {(w.module, w.call): w.dims for w in graph.witnesses}

    def shrink(key: Key, output: Tensor) -> Tensor:
        kept = _gathered(output, dims.get(key, ()), survivors)
        return copied(output) if kept is output else kept

    inputs = map_tensors(graph.example_inputs, lambda t: _nudged(_informative(t), nudge))
    state = {name: _nudged(tensor, nudge) for name, tensor in masked.items()}
    return Evidence(_run(model, inputs, state, mode, shrink))


def rounding(
    model: nn.Module, graph: ChannelGraph, keep: BoolArray, masked: Mapping[str, Tensor]
) -> dict[Key, float]:
    """How far rounding alone moves each compared output of the masked network.

    Where outputs cancel (a mean after InstanceNorm) they are nothing but rounding noise, and no
    fixed tolerance means anything.
    """
    plain = reference(model, graph, keep, masked)
    epsilon = max(
        (torch.finfo(t.dtype).eps for t in plain.seen.values() if t.is_floating_point()), default=0
    )
    moved = reference(model, graph, keep, masked, nudge=epsilon)
    found = {key: drift_between(plain.seen[key], moved.seen[key]) for key in plain.seen}
    return {key: drift for key, drift in found.items() if np.isfinite(drift)}


def compare(
    model: nn.Module,
    graph: ChannelGraph,
    expected: Evidence,
    noise: Mapping[Key, float] | None = None,
) -> Verdict:
    """Run the cut network and compare every leaf module's and the network's output.

    ``noise`` is what :func:`rounding` measured; ten times that is allowed where it is more than
    the tolerance of the type.
    """

    def look(key: Key, have: Tensor) -> _Difference | None:
        return _difference(expected.seen[key], have) if key in expected.seen else None

    inputs = map_tensors(graph.example_inputs, _informative)
    found = _run(model, inputs, {}, contextlib.nullcontext(), look)
    missing = _Difference(float("inf"), "is not there any more")
    largest, blamed, message = 0.0, "", ""
    for key, want in expected.seen.items():
        difference = found.get(key) or missing
        tolerance = TOLERANCES.get(want.dtype, 1e-4)
        allowed = max(tolerance, 10 * (noise or {}).get(key, 0.0))
        if not difference.drift <= allowed and not blamed:
            blamed, message = key[0], f"the output of {key[0]!r} (call {key[1]}) {difference.text}"
        if difference.drift > allowed or allowed == tolerance:
            largest = max(largest, difference.drift)  # what is only noise has no drift to report
    return Verdict(largest, blamed, len(expected.seen), message)


def _difference(want: Tensor, have: Tensor) -> _Difference:
    if have.shape != want.shape:
        text = f"has shape {list(want.shape)} masked, {list(have.shape)} pruned"
        return _Difference(float("inf"), text)
    drift = drift_between(want, have)
    return _Difference(drift, f"differs by {drift:.1e} of its scale")


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


def _run(
    model: nn.Module,
    inputs: Any,
    state: Mapping[str, Tensor],
    mode: Any,
    look: Callable[[Key, Tensor], Any],
) -> dict[Key, Any]:
    """Run in evaluation mode; what ``look`` makes of every output, as soon as it is there."""
    seen: dict[Key, Any] = {}
    tensors = named_tensors(model)
    owned = tensors.keys() - named_aliases(tensors).keys()
    buffers = {n: tensors[n].clone() for n in owned if not isinstance(tensors[n], nn.Parameter)}
    args, kwargs = call_arguments(model, inputs)
    with (
        preserved_random_state(),
        training_mode(model, training=False),
        preserved_attributes(model),
        _leaf_outputs(model, seen, look),
        _full_precision(),
        torch.no_grad(),
        mode,
        _NoDropout(),
    ):
        output = functional_call(model, {**buffers, **state}, args, kwargs)
    for index, tensor in enumerate(output_tensors(output)):
        seen[(OUTPUT, index)] = look((OUTPUT, index), tensor.detach())
    return seen


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


@contextlib.contextmanager
def _full_precision() -> Generator[None]:
    """No TensorFloat-32 while comparing: its rounding is larger than the tolerance."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    convolution = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution


@contextlib.contextmanager
def _leaf_outputs(
    model: nn.Module, seen: dict[Key, Any], look: Callable[[Key, Tensor], Any]
) -> Generator[None]:
    names = {m: n for m, n in first_paths(model).items() if next(m.children(), None) is None}
    calls: Counter[str] = Counter()

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if module in names and isinstance(output, Tensor):
            key = (names[module], calls[names[module]])
            calls[names[module]] += 1
            seen[key] = look(key, output.detach())

    handle = register_module_forward_hook(record)
    try:
        yield
    finally:
        handle.remove()


def _gathered(tensor: Tensor, dims: Sequence[IntArray | None], survivors: Survivors) -> Tensor:
    for dim, ids in enumerate(dims):
        if ids is not None and len(kept := survivors(ids)) < len(ids):
            tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
    return tensor


def _scattered(tensor: Tensor, dims: Sequence[IntArray | None], survivors: Survivors) -> Tensor:
    """The inverse of :func:`_gathered`, with zeros where channels were removed."""
    for dim, ids in enumerate(dims):
        if ids is not None and len(kept := survivors(ids)) < len(ids):
            shape = [*tensor.shape[:dim], len(ids), *tensor.shape[dim + 1 :]]
            index = torch.from_numpy(kept).to(tensor.device)
            tensor = tensor.new_zeros(shape).index_copy(dim, index, tensor)
    return tensor


class _Recounting(TorchDispatchMode):
    """Runs operators that depend on the number of channels over the surviving ones only."""

    def __init__(self, recounts: Mapping[Key, Recount], survivors: Survivors) -> None:
        super().__init__()
        self._recounts, self._survivors = recounts, survivors
        self._calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Gather the inputs, run, scatter the outputs; all other operators run as they are."""
        call = self._calls[str(func)]
        self._calls[str(func)] += 1
        recount = self._recounts.get((str(func), call))
        if recount is None:
            return func(*args, **(kwargs or {}))
        inputs, original = iter(recount.inputs), args[0]

        def gather(tensor: Tensor) -> Tensor:
            return _gathered(tensor, next(inputs) or (), self._survivors)

        args, kwargs = map_tensors((args, dict(kwargs or {})), gather)
        outputs = func(*_resized(func, args), **kwargs)
        several = isinstance(outputs, tuple | list)
        results = [
            _scattered(out, dims, self._survivors)
            for out, dims in zip(outputs if several else [outputs], recount.outputs, strict=True)
        ]
        if func._schema.is_mutable:  # noqa: SLF001 - the gathered copy was written to: write to the real one
            return original.copy_(results[0])
        return tuple(results) if several else results[0]


def _resized(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes that an operator takes besides the tensor they describe."""
    x = args[0]
    if func.overloadpacket is torch.ops.aten.native_layer_norm:
        return x, list(x.shape[x.ndim - len(args[1]) :]), *args[2:]
    if func.overloadpacket is torch.ops.aten.native_group_norm:
        return *args[:4], x.shape[1], *args[5:]
    return args


class _NoDropout(TorchFunctionMode):
    """Dropout that a network keeps on in evaluation draws one mask per channel: compare without."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Dropout in all its forms returns its input; everything else runs."""
        kwargs = kwargs or {}
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)
