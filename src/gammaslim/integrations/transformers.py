"""A callback for the Hugging Face Trainer (``pip install 'gammaslim[huggingface]'``)."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gammaslim.arrays import Site
from gammaslim.errors import PenaltyError
from gammaslim.integrations.common import PenaltySource, Session, Steps, missing

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise missing("transformers", "huggingface", error) from error


class SlimmingCallback(Session, TrainerCallback, ExportableState):
    """Penalises the scales of a model while a Hugging Face ``Trainer`` trains it.

    Attaches when training begins, after checkpoints were restored; adds the handle's figures to
    the Trainer's logs under ``"gammaslim/"``; keeps the handle's state in ``trainer_state.json``;
    detaches when training ends.  Afterwards ``network``, ``graph`` and ``handle`` are there for
    ``gs.scores``, ``gs.select`` and ``gs.prune``.

    The Trainer runs the reporters of ``report_to`` before any callback it is given, so those do
    not see the figures, while the log history and the console do.  For TensorBoard and others pass
    ``report_to="none"`` and the reporter's own callback after this one:
    ``callbacks=[slimming, TensorBoardCallback()]``.

    Args:
        penalty: a penalty, or a function from the number of optimizer steps to one, such as
            ``lambda steps: gs.Budget(keep_macs=0.5, steps=steps)``.
        example_inputs: what the network is called with, e.g. ``{"pixel_values": tensor}``.
        ignore: as for :func:`gammaslim.trace`.
        module: the name of the submodule that is the network; by default the model itself.
        exact: as for :func:`gammaslim.trace`.

    Raises:
        PenaltyError: ``penalty`` is neither a penalty nor a function that makes one.
    """

    def __init__(
        self,
        penalty: PenaltySource,
        example_inputs: Any,
        ignore: Iterable[nn.Module | str | Site] = (),
        *,
        module: str = "",
        exact: bool = False,
    ) -> None:
        """Nothing is traced yet."""
        if penalty == _REMADE:
            raise PenaltyError(
                "The Trainer was asked to make its callbacks anew from the checkpoint "
                "(restore_callback_states_from_checkpoint=True), but a file cannot hold a penalty. "
                "Leave that option off: SlimmingCallback takes its state from there anyway."
            )
        super().__init__(penalty, ignore, exact=exact)
        self._example_inputs = example_inputs
        self._module = module

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **others: Any,  # noqa: ARG002
    ) -> None:
        """Trace and attach: Accelerate has wrapped the optimizer by now, and both are restored."""
        if state.global_step:
            entry = _all(state).get(type(self).__name__, {})
            self.load_state_dict(_unpacked(entry.get("attributes", {}).get(_STATE, "")))
        # The Trainer saves into this entry without looking whether a checkpoint that was made
        # without this callback has one.
        _all(state)[type(self).__name__] = self.state()
        network = model.get_submodule(self._module)
        total = state.max_steps if state.max_steps > 0 else None
        self.begin(network, self._example_inputs, [optimizer], Steps(total, state.global_step))

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        logs: dict[str, Any],
        **others: Any,  # noqa: ARG002
    ) -> None:
        """Add the figures to the logs of training, for whoever reads them next."""
        if "loss" in logs:
            figures = self.logs()
            logs.update(figures)
            state.log_history[-1].update(figures)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **others: Any,  # noqa: ARG002
    ) -> None:
        """Detach."""
        self.end()

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into ``trainer_state.json``."""
        remade = {"penalty": _REMADE, "example_inputs": None}
        return {"args": remade, "attributes": {_STATE: _packed(self.state_dict())}}


_STATE = "handle_state"
_REMADE = "remade from a checkpoint"


def _all(state: TrainerState) -> dict[str, Any]:
    """The states of all callbacks; a dict, whatever the Trainer's annotation says."""
    states: Any = state.stateful_callbacks
    return states


def _packed(state: dict[str, Any]) -> str:
    """A state as text: ``trainer_state.json`` holds no tensors, and numbers one a line."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode() if state else ""


def _unpacked(text: str) -> dict[str, Any]:
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True) if text else {}
