"""From a network and example inputs to its channel graph: one labelled run per mode."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from gammaslim.arrays import Site
from gammaslim.channels import ChannelGraph, Reason
from gammaslim.errors import GammaslimWarning, NothingToPruneError, TraceError
from gammaslim.network import (
    NORM_BASE,
    PROCESS,
    FakeMemo,
    ModeFlag,
    call_arguments,
    copied,
    describe,
    doubled,
    fake_copy,
    first_paths,
    map_tensors,
    named_aliases,
    named_tensors,
    on_meta,
    output_tensors,
    packages_of,
    paused_collector,
    preserved_attributes,
    preserved_random_state,
    quiet_fake_tensors,
    training_mode,
    unwrap,
)
from gammaslim.recording import Dispatcher, Findings, Recorder, TensorLabels
from gammaslim.rules import FUNCTION_RULES, rule_for
from gammaslim.tracing.assembly import Subject, assemble
from gammaslim.tracing.ignoring import ignored_sites
from gammaslim.tracing.module_sizes import tag_attributes
from gammaslim.tracing.shared_streams import stream_readers
from gammaslim.tracing.torch_modes import DispatchMode, FunctionMode


def trace(
    model: nn.Module,
    example_inputs: Any,
    ignore: Iterable[nn.Module | str | Site] = (),
    exact: bool = False,  # noqa: FBT001, FBT002 - the public signature is fixed
    *,
    select_inputs: bool = False,
) -> ChannelGraph:
    """Find which slices of all tensors of ``model`` live and die together.

    The network runs on fake tensors, which cost neither arithmetic nor memory: in evaluation mode,
    and in training mode too where its own code asks for the mode (auxiliary heads, dropped paths).
    Every index of every parameter dimension carries a label; operators rearrange labels or unite
    them; what is one class in the end is one channel (DepGraph, arXiv 2301.12900, states the
    problem; the solution here needs no module types).

    Args:
        model: any ``nn.Module`` with BatchNorm; wrappers (DDP, ``torch.compile``) are taken off.
            It comes back exactly as it was.
        example_inputs: what ``model`` is called with: a tensor, a tuple of positional arguments,
            or a dict of keyword arguments.
        ignore: modules, names, name patterns (``"head.*"``) or sites (``("head.weight", 0)``)
            of which nothing may change.
        exact: also keep the channels for which some operator depends on how many there are
            (LayerNorm and GroupNorm statistics, a mean over channels).
        select_inputs: let every BatchNorm that reads a stream which others read too (pre-activation
            and densely connected networks) drop its own channels of it: the cut puts an index in
            front of it, and its scales become channels of their own.  Channels of the stream go
            when nobody reads them any more.

    Raises:
        TraceError: the network cannot be run with these inputs; its own error is shown.
        NothingToPruneError: the network has no BatchNorm scale.
    """
    model = unwrap(model)
    ignored = ignored_sites(model, ignore)
    tensors = named_tensors(model)
    aliases = named_aliases(tensors)
    owned = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    selecting = frozenset[str]()
    if select_inputs:
        every = frozenset(
            path for m, path in first_paths(model).items() if isinstance(m, NORM_BASE)
        )
        probe = _session(model, example_inputs, owned, every, tied=bool(aliases))
        _run_both_modes(probe)
        selecting = stream_readers(probe.findings)
    session = _session(model, example_inputs, owned, selecting, tied=bool(aliases))
    findings, labels = session.findings, session.labels
    notes, in_training = _run_both_modes(session)
    for failure in dict.fromkeys(findings.notes):
        warnings.warn(failure, GammaslimWarning, stacklevel=2)
    if not findings.scales:
        raise NothingToPruneError(
            f"{type(model).__name__} has no BatchNorm with a weight that its forward reaches, so "
            "there is no scale to slim by. gammaslim needs BatchNorm1d, 2d or 3d with affine=True."
        )
    said = (*notes, *dict.fromkeys(findings.notes))
    subject = Subject(model, tensors, aliases, ignored, exact, said, in_training, example_inputs)
    with paused_collector():
        return assemble(findings, labels, subject)


@dataclass
class _Session:
    """Everything that the labelled runs of one network share."""

    model: nn.Module
    example: Any
    tensors: dict[str, Tensor]
    labels: dict[str, TensorLabels]
    findings: Findings
    selecting: frozenset[str]
    tied: bool

    @cached_property
    def fake_mode(self) -> FakeTensorMode:
        """One for both modes, so that what it has worked out serves twice."""
        with (
            PROCESS.alone(),
            functorch_config.patch(fake_tensor_allow_unsafe_data_ptr_access=False),
        ):
            return FakeTensorMode(allow_non_fake_inputs=True)

    @cached_property
    def packages(self) -> frozenset[str]:
        """Where the network's own code comes from."""
        return packages_of(self.model)

    @cached_property
    def memo(self) -> FakeMemo:
        """Likewise."""
        return FakeMemo(self.fake_mode)

    @cached_property
    def fakes(self) -> dict[str, Tensor]:
        """All tensors of the network as fake ones."""
        return {name: fake_copy(self.fake_mode, t) for name, t in self.tensors.items()}


def _session(
    model: nn.Module,
    example: Any,
    tensors: dict[str, Tensor],
    selecting: frozenset[str],
    *,
    tied: bool,
) -> _Session:
    findings = Findings()
    labels: dict[str, TensorLabels] = {}
    for name, tensor in tensors.items():
        dims = tuple(findings.store.fresh(n) if n > 1 else None for n in tensor.shape)
        labels[name] = TensorLabels(dims, zero=True)
    return _Session(model, example, tensors, labels, findings, selecting, tied)


def _run_both_modes(session: _Session) -> tuple[tuple[str, ...], bool]:
    """Run in evaluation and in training mode; what cannot run is noted or raised.

    Training mode is left out where only PyTorch's own modules asked for the mode.  The second
    result is whether it was traced by itself.
    """
    flag = ModeFlag()
    try:
        run = _run(session, _attempts(session, flag))
    except _RejectedError as error:
        raise _rejected(session, error.cause, "evaluation") from error.cause
    if run.training is flag and not flag.asked:
        return run.notes, False
    try:
        return (*run.notes, *_run(session, _attempts(session, training=True)).notes), True
    except _RejectedError as error:
        why = _rejected(session, error.cause, "training")
        note = f"Training mode could not be traced, so only evaluation mode is safe: {why}"
        warnings.warn(note, GammaslimWarning, stacklevel=3)
        return (*run.notes, note), False


@dataclass(frozen=True)
class _Attempt:
    """One way to run the network: on which inputs, in which mode, on fake tensors or real ones.

    ``tagged``: with a followed size in place of each integer that the network's modules hold.
    """

    example: Any
    training: bool | ModeFlag
    fake: bool
    tagged: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, if it was this one that ran through."""
        mode = "training" if int(self.training) else "evaluation"
        return () if self.fake else (f"Traced on real tensors in {mode} mode.",)


class _RejectedError(Exception):
    """No attempt ran through; ``cause`` is the network's own error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _attempts(
    session: _Session, flag: ModeFlag | None = None, *, training: bool = False
) -> Iterator[_Attempt]:
    """The ways to run, in the order in which to try them."""
    examples = [session.example]
    if training:  # BatchNorm refuses a single value per channel, as after global pooling
        examples.append(map_tensors(session.example, doubled))
    if flag is not None:
        yield _Attempt(session.example, flag, fake=True)
    for fake in (True,) if on_meta(session.tensors) else (True, False):
        for tagged in (True, False):
            for example in examples:
                yield _Attempt(example, training, fake, tagged)


def _run(session: _Session, attempts: Iterable[_Attempt]) -> _Attempt:
    """One labelled run: the first attempt that goes through, on fake tensors if possible."""
    errors: list[tuple[bool, Exception]] = []
    before = session.findings.snapshot()
    for attempt in attempts:
        try:
            _labelled_run(session, attempt)
        except Exception as error:  # noqa: BLE001 - any failure of the user's own code
            session.findings.restore(before)
            errors.append((attempt.fake, error))
        else:
            return attempt
    raise _RejectedError(min(errors, key=lambda pair: pair[0])[1])  # the first on real tensors


def _rejected(session: _Session, error: Exception, mode: str) -> TraceError:
    return TraceError(
        f"{type(session.model).__name__} could not be run in {mode} mode with "
        f"{describe(session.example)}; its own error is {type(error).__name__}: {error}. Pass "
        "inputs that the network accepts: a tensor, a tuple of arguments, or a dict of keywords."
    )


def _labelled_run(session: _Session, attempt: _Attempt) -> None:
    measuring = int(attempt.training) == 0
    recorder = Recorder(
        session.findings, session.labels, session.packages,
        measuring=measuring, selecting=session.selecting,
    )  # fmt: skip
    mode = session.fake_mode if attempt.fake else None
    with (
        preserved_random_state(),
        contextlib.closing(recorder),
        paused_collector() if mode else contextlib.nullcontext(),
        preserved_attributes(session.model),
        training_mode(session.model, training=attempt.training),
        _module_hooks(session.model, recorder),
        quiet_fake_tensors(),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        copy = partial(fake_copy, mode) if mode else copied
        if attempt.tagged:
            tag_attributes(session.model, recorder)
        state = session.fakes if mode else {n: copied(t) for n, t in session.tensors.items()}
        args, kwargs = map_tensors(call_arguments(session.model, attempt.example), copy)
        _name_tensors(recorder, state, (args, kwargs))
        memo = session.memo if mode else None
        dispatch = DispatchMode(Dispatcher(recorder, rule_for), memo)
        with mode or contextlib.nullcontext(), FunctionMode(recorder, FUNCTION_RULES), dispatch:
            output = functional_call(session.model, state, args, kwargs, tie_weights=session.tied)
        for tensor in output_tensors(output):
            recorder.values.returned(tensor)
            for own in recorder.dims(tensor):
                recorder.freeze(own, "network output")


def _name_tensors(recorder: Recorder, state: dict[str, Tensor], inputs: Any) -> None:
    for name, tensor in state.items():
        recorder.name(tensor, name)
    reason = recorder.findings.reason(Reason("network input"))

    def mark(tensor: Tensor) -> Tensor:
        recorder.give(tensor, (None,) * tensor.ndim, reason=reason)
        return tensor

    map_tensors(inputs, mark)


@contextlib.contextmanager
def _module_hooks(model: nn.Module, recorder: Recorder) -> Generator[None]:
    """Tell the recorder which module is running; global hooks leave the model untouched."""
    names = first_paths(model)

    def enter(module: nn.Module, _: Any) -> None:
        if module in names:
            recorder.enter_module(names[module], module)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        if module in names:
            recorder.leave_module(names[module], module, output)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
