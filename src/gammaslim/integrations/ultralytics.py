"""Callbacks for Ultralytics (``pip install 'gammaslim[ultralytics]'``; that package is AGPL-3.0)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gammaslim.errors import GammaslimError, GammaslimWarning
from gammaslim.graph import Site
from gammaslim.integrations.common import PenaltySource, Session, Steps, missing

try:
    from ultralytics.engine.model import Model
    from ultralytics.engine.trainer import BaseTrainer
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
        ignore: as for :func:`gammaslim.trace`; names, since the trainer builds a network of its own.
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
    for event, callback in {
        "on_pretrain_routine_end": _begin,
        "on_train_epoch_end": _log,
        "on_model_save": _save,
        "teardown": _end,
    }.items():
        yolo.add_callback(event, partial(callback, session))
    return session


def _begin(session: Session, trainer: BaseTrainer) -> None:
    size = trainer.args.imgsz
    example = torch.zeros(1, trainer.data["channels"], size, size)
    if trainer.resume:
        session.load_state_dict(_saved(trainer))
    ema = None if trainer.ema is None else trainer.ema.ema
    session.begin(trainer.model, example, [trainer.optimizer], _steps(trainer), ema=ema)


def _log(session: Session, trainer: BaseTrainer) -> None:
    """The trainer has just filled ``lr`` for its loggers, and writes it into ``results.csv``."""
    trainer.lr.update(session.logs())


def _save(session: Session, trainer: BaseTrainer) -> None:
    state = {"epoch": trainer.epoch, "handle": session.state_dict()}
    torch.save(state, trainer.wdir / STATE_FILE)


def _end(session: Session, trainer: BaseTrainer) -> None:  # noqa: ARG001
    """Runs after failed trainings too."""
    session.end()


def _saved(trainer: BaseTrainer) -> dict[str, Any]:
    """The handle's state at the end of the epoch before the one to start with, if there is one."""
    path = Path(trainer.args.resume).with_name(STATE_FILE)
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["epoch"] == trainer.start_epoch - 1:
            return state["handle"]
        found = f"{path} belongs to epoch {state['epoch']}"
    else:
        found = f"there is no {path}"
    warnings.warn(
        f"Training resumes at epoch {trainer.start_epoch}, but {found}: the penalty starts anew, "
        "for the steps that are left. Resume from last.pt in the folder where it was written.",
        GammaslimWarning,
        stacklevel=2,
    )
    return {}


def _steps(trainer: BaseTrainer) -> Steps:
    """Those of the whole training, and those done; unknown where only the time is limited."""
    if trainer.args.time:
        return Steps(None)
    total = _steps_from(trainer, 0)
    return Steps(total, total - _steps_from(trainer, trainer.start_epoch))


def _steps_from(trainer: BaseTrainer, epoch: int) -> int:
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
