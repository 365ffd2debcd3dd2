"""Callbacks for Ultralytics, which is AGPL-3.0 (``pip install 'gammaslim[ultralytics]'``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gammaslim.arrays import Site
from gammaslim.errors import GammaslimError, GammaslimWarning
from gammaslim.integrations.common import PenaltySource, Session, Steps, missing

try:
    from ultralytics.engine.model import Model
except ImportError as error:
    raise missing("ultralytics", "ultralytics", error) from error

STATE_FILE = "gammaslim.pt"
"""Holds the handle's state and lies beside ``last.pt``."""


def add_slimming(
    yolo: Model,
    penalty: PenaltySource,
    ignore: Iterable[nn.Module | str | Site] = (),
    *,
    exact: bool = False,
) -> Session:
    """Penalise the scales of an ``ultralytics.YOLO`` whenever it is trained.

    Registers callbacks that attach to the optimizer once the trainer has made it, write the
    handle's figures beside the learning rates (``results.csv`` and every logger), save the
    handle's state beside ``last.pt`` for ``train(resume=True)``, and detach at the end.
    The example inputs are one image of the trainer's ``imgsz``.

    After ``train``, ``yolo.model`` is what the trainer read back from ``best.pt``: the moving
    average of the weights, in half precision.  Its names are those of ``session.graph``; go on
    with ``gs.scores(yolo.model, session.graph)``.

    With several GPUs Ultralytics trains in processes of its own, which know nothing of callbacks:
    there the penalty does not act, and asking for ``session.graph`` afterwards says so.

    Args:
        yolo: the model to train.
        penalty: a penalty, or a function from the number of optimizer steps to one, such as
            ``lambda steps: gs.Budget(keep_macs=0.5, steps=steps)``.
        ignore: as for :func:`gammaslim.trace`; by name, since the trainer builds its own network.
        exact: as for :func:`gammaslim.trace`.

    Returns:
        The session, with ``network``, ``graph`` and ``handle`` once training has begun.

    Raises:
        GammaslimError: ``yolo`` is not an Ultralytics model.
        PenaltyError: ``penalty`` is neither a penalty nor a function that makes one.
    """
    if not isinstance(yolo, Model):
        raise GammaslimError(
            f"An ultralytics.YOLO is needed; found {type(yolo).__name__}. For a bare network use "
            "gammaslim.attach."
        )
    session = Session(penalty, ignore, exact=exact)
    callbacks = _Callbacks(session)
    yolo.add_callback("on_pretrain_routine_end", callbacks.begin)
    yolo.add_callback("on_train_epoch_start", callbacks.begin_again)
    yolo.add_callback("on_train_epoch_end", callbacks.log)
    yolo.add_callback("on_model_save", callbacks.save)
    yolo.add_callback("teardown", callbacks.end)
    return session


class _Callbacks:
    """What the trainer calls; it passes itself, of a class that depends on the task."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._average: Any = None

    def begin(self, trainer: Any) -> None:
        """Model, optimizer and average are made, and those of a checkpoint are loaded."""
        if trainer.resume:
            path = Path(trainer.args.resume).with_name(STATE_FILE)
            self._session.load_state_dict(_saved(path, trainer.start_epoch))
        self._attach(trainer)

    def begin_again(self, trainer: Any) -> None:
        """After losses that were not finite the trainer goes back to ``last.pt``.

        All that shows of it is another average.
        """
        if trainer.ema is not self._average:
            self._session.load_state_dict(_saved(trainer.wdir / STATE_FILE, trainer.epoch))
            self._attach(trainer)

    def log(self, trainer: Any) -> None:
        """The trainer has just filled ``lr`` for its loggers; ``results.csv`` gets it too."""
        trainer.lr.update(self._session.logs())

    def save(self, trainer: Any) -> None:
        """``last.pt`` has just been written."""
        state = {"epoch": trainer.epoch, "handle": self._session.state_dict()}
        torch.save(state, trainer.wdir / STATE_FILE)

    def end(self, trainer: Any) -> None:  # noqa: ARG002
        """Runs after failed trainings too."""
        self._session.end()

    def _attach(self, trainer: Any) -> None:
        size = trainer.args.imgsz
        self._average = trainer.ema
        self._session.begin(
            trainer.model,
            torch.zeros(1, trainer.data["channels"], size, size),
            [trainer.optimizer],
            _steps(trainer),
            ema=trainer.ema.ema,
        )


def _saved(path: Path, epoch: int) -> dict[str, Any]:
    """The handle's state at the end of the epoch before this one, if there is one."""
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["epoch"] == epoch - 1:
            return state["handle"]
        found = f"{path} is of the end of epoch {state['epoch'] + 1}"
    else:
        found = f"there is no {path}"
    warnings.warn(
        f"Training goes on with epoch {epoch + 1}, but {found}: the penalty starts anew, for the "
        "steps that are left. Resume from last.pt in the folder where it was written.",
        GammaslimWarning,
        stacklevel=2,
    )
    return {}


def _steps(trainer: Any) -> Steps:
    """Those of the whole training, and those done; unknown where only the time is limited."""
    if trainer.args.time:
        return Steps(None)
    total = _steps_from(trainer, 0)
    return Steps(total, total - _steps_from(trainer, trainer.start_epoch))


def _steps_from(trainer: Any, epoch: int) -> int:
    """Optimizer steps from an epoch to the last: the trainer accumulates less while it warms up."""
    batches, full = len(trainer.train_loader), trainer.accumulate
    warm_up = round(min(trainer.args.warmup_epochs, max(trainer.epochs - 1, 0)) * batches)
    count, last = 0, -1
    for index in range(epoch * batches, trainer.epochs * batches):
        accumulate = full
        if index < warm_up:
            accumulate = max(1, int(np.interp(index, [0, warm_up], [1, full]).round()))
        if index - last >= accumulate:
            count, last = count + 1, index
    return count
