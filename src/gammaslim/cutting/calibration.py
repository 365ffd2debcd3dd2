"""Data that shows what activations are like: batches from a loader, BatchNorm statistics anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from gammaslim.errors import CalibrationError
from gammaslim.network import (
    NORM_BASE,
    call_arguments,
    first_paths,
    map_tensors,
    preserved_attributes,
    preserved_random_state,
    training_mode,
)


class Calibration:
    """Batches of a loader as a network takes them, any number of times over.

    A loader that gives pairs ``(inputs, targets)``, as data sets do, is read for its inputs alone.
    Of a dict only those keys are taken that the example inputs have.

    Args:
        loader: for instance a ``DataLoader``; it must be possible to iterate over it again.
        example: the inputs that the network was traced with.
        device: where to move tensors.

    Raises:
        CalibrationError: it can be iterated over only once.
    """

    def __init__(self, loader: Iterable[Any], example: Any, device: torch.device) -> None:
        """Look at the loader, without reading from it."""
        if isinstance(loader, Iterator):
            raise CalibrationError(
                f"calibration= was given {type(loader).__name__}, which can be read only once; it "
                "is needed before and after the cut. Pass a DataLoader or a list of batches."
            )
        self._loader, self._example, self._device = loader, example, device

    def batches(self, what: str) -> Iterator[Any]:
        """All batches, with a progress bar that says ``what`` they are for.

        Raises:
            CalibrationError: there are none, or one is not what the network takes.
        """
        found = False
        for batch in track(self._loader, what, transient=True):
            found = True
            yield map_tensors(self._inputs(batch), lambda t: t.to(self._device))
        if not found:
            raise CalibrationError("calibration= gave no batch. Pass a hundred or so.")

    def _inputs(self, batch: Any) -> Any:
        example = self._example
        if isinstance(example, Mapping):
            if not isinstance(batch, Mapping) or not set(example) <= set(batch):
                raise CalibrationError(
                    f"calibration= should give dicts with the keys {sorted(example)}, as the "
                    f"network was traced with; found {type(batch).__name__}."
                )
            return {key: batch[key] for key in example}
        if isinstance(example, tuple):
            if not isinstance(batch, tuple | list) or len(batch) < len(example):
                raise CalibrationError(
                    f"calibration= should give at least the {len(example)} inputs that the network "
                    f"was traced with; found {type(batch).__name__}."
                )
            return tuple(batch[: len(example)])
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(first, Tensor):
            raise CalibrationError(
                "calibration= should give tensors, or pairs that begin with one; found "
                f"{type(first).__name__}."
            )
        return first


def reestimate(model: nn.Module, batches: Iterable[Any]) -> Callable[[], None]:
    """BatchNorm statistics anew, each the mean over all batches of that batch's own.

    Everything but BatchNorms runs in evaluation mode.

    Returns:
        What puts the old statistics back.

    Raises:
        CalibrationError: the network fails on the data; the statistics are the old ones again.

    Source: as ``torch.optim.swa_utils.update_bn``; for cut networks Li et al., "EagleEye", ECCV
    2020, arXiv 2007.02491.
    """
    norms = [m for m in first_paths(model) if isinstance(m, NORM_BASE) and m.track_running_stats]
    before = [[b.clone() for b in norm.buffers()] for norm in norms]
    momenta = [norm.momentum for norm in norms]

    def restore() -> None:
        for norm, buffers in zip(norms, before, strict=True):
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(value)

    try:
        with (
            preserved_random_state(),
            preserved_attributes(model),
            torch.no_grad(),
            training_mode(model, training=False),
        ):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True
            for batch in batches:
                args, kwargs = call_arguments(model, batch)
                model(*args, **kwargs)
    except BaseException as error:  # any failure of the user's own code, or Ctrl-C
        restore()
        if isinstance(error, CalibrationError) or not isinstance(error, Exception):
            raise
        raise CalibrationError(
            f"The network fails on the calibration data: {type(error).__name__}: {error}."
        ) from error
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return restore
