"""Running a network to compare it: what every layer puts out, nothing else touched or changed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gammaslim.arrays import IntArray
from gammaslim.channels import Recount
from gammaslim.cutting.constants import Placeholder
from gammaslim.network import (
    call_arguments,
    first_paths,
    map_tensors,
    named_aliases,
    named_tensors,
    output_tensors,
    preserved_attributes,
    preserved_random_state,
    training_mode,
)

OUTPUT = "network output"

Key = tuple[str, int]
"""Which output: a leaf module's path, or :data:`OUTPUT`, and the number of the call."""


Survivors = Callable[[IntArray], IntArray]
"""From one dimension's channel ids to the indices that survive, in the cut network's order."""


def run_observed(
    model: nn.Module,
    inputs: Any,
    state: Mapping[str, Tensor],
    mode: Any,
    look: Callable[[Key, Tensor], Any],
    also: Collection[str] = (),
) -> dict[Key, Any]:
    """Run in evaluation mode; what ``look`` makes of every output, as soon as it is there.

    ``state`` stands in for tensors of the network; ``mode`` is one more to run under.  ``also``:
    modules to look at that are no leaves.
    """
    seen: dict[Key, Any] = {}
    tensors = named_tensors(model)
    owned = tensors.keys() - named_aliases(tensors).keys()
    buffers = {n: tensors[n].clone() for n in owned if not isinstance(tensors[n], nn.Parameter)}
    args, kwargs = call_arguments(model, inputs)
    with (
        preserved_random_state(),
        training_mode(model, training=False),
        preserved_attributes(model),
        _module_outputs(model, seen, look, also),
        _full_precision(),
        torch.no_grad(),
        mode,
        _NoDropout(),
    ):
        output = functional_call(model, {**buffers, **state}, args, kwargs)
    for index, tensor in enumerate(output_tensors(output)):
        seen[(OUTPUT, index)] = look((OUTPUT, index), tensor.detach())
    return seen


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
def _module_outputs(
    model: nn.Module,
    seen: dict[Key, Any],
    look: Callable[[Key, Tensor], Any],
    also: Collection[str],
) -> Generator[None]:
    names = {
        m: n
        for m, n in first_paths(model).items()
        # A placeholder only stands in for the shape of what a layer gave, which nobody reads.
        if (next(m.children(), None) is None or n in also) and not isinstance(m, Placeholder)
    }
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


def gathered(tensor: Tensor, dims: Sequence[IntArray | None], survivors: Survivors) -> Tensor:
    """What ``survivors`` leaves of every dimension whose channel ids are given."""
    for dim, ids in enumerate(dims):
        if ids is not None and len(kept := survivors(ids)) < len(ids):
            tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
    return tensor


# LayerNorm over eight channels, of which three go: in the masked network these three are zero and
# pull mean and variance down; in the cut network they are not there. So the reference gathers the
# five that stay, normalises over five, and scatters the result back among zeros: eight again, as
# the code of the masked network expects.
class Recounting(TorchDispatchMode):
    """Runs operators that depend on the number of channels over the surviving ones only."""

    def __init__(self, recounts: Mapping[Key, Recount], survivors: Survivors) -> None:
        """``recounts`` by operator and call."""
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
            return gathered(tensor, next(inputs) or (), self._survivors)

        args, kwargs = map_tensors((args, dict(kwargs or {})), gather)
        outputs = func(*_resized(func, args), **kwargs)
        several = isinstance(outputs, tuple | list)
        results = [
            self._scattered(out, dims)
            for out, dims in zip(outputs if several else [outputs], recount.outputs, strict=True)
        ]
        if func._schema.is_mutable:  # noqa: SLF001 - the gathered copy was written to: write to the real one
            return original.copy_(results[0])
        return tuple(results) if several else results[0]

    def _scattered(self, tensor: Tensor, dims: Sequence[IntArray | None]) -> Tensor:
        """The inverse of :func:`gathered`, with zeros where channels were removed."""
        for dim, ids in enumerate(dims):
            if ids is not None and len(kept := self._survivors(ids)) < len(ids):
                shape = [*tensor.shape[:dim], len(ids), *tensor.shape[dim + 1 :]]
                index = torch.from_numpy(kept).to(tensor.device)
                tensor = tensor.new_zeros(shape).index_copy(dim, index, tensor)
        return tensor


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
