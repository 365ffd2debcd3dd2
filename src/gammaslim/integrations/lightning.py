"""A callback for Lightning (``pip install 'gammaslim[lightning]'``)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from gammaslim.arrays import Site
from gammaslim.errors import GammaslimError
from gammaslim.integrations.common import PenaltySource, Session, Steps, missing

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing("lightning", "lightning", error) from error


class Slimming(Session, Callback):
    """Penalises the scales of a LightningModule while it is fitted.

    Attaches when fitting starts, after checkpoints were restored; logs the handle's figures with
    ``log_dict`` under ``"gammaslim/"``; keeps the handle's state in the checkpoints; detaches when
    fitting ends.  Afterwards ``network``, ``graph`` and ``handle`` are there for ``gs.scores``,
    ``gs.select`` and ``gs.prune``.

    Args:
        penalty: a penalty, or a function from the number of optimizer steps to one, such as
            ``lambda steps: gs.Budget(keep_macs=0.5, steps=steps)``.
        example_inputs: what the network is called with; ``None`` takes the LightningModule's
            ``example_input_array``.
        ignore: as for :func:`gammaslim.trace`.
        module: the name of the submodule that is the network (``"net"``, ``"model.backbone"``);
            by default the LightningModule itself, which then needs a ``forward``.
        log_every: optimizer steps from one reading of the figures to the next; ``None`` takes the
            Trainer's ``log_every_n_steps``.  What the Trainer writes in between repeats the last
            reading.
        exact: as for :func:`gammaslim.trace`.

    Raises:
        PenaltyError: ``penalty`` is neither a penalty nor a function that makes one.
    """

    def __init__(
        self,
        penalty: PenaltySource,
        example_inputs: Any = None,
        ignore: Iterable[nn.Module | str | Site] = (),
        *,
        module: str = "",
        log_every: int | None = None,
        exact: bool = False,
    ) -> None:
        """Nothing is traced yet."""
        super().__init__(penalty, ignore, exact=exact)
        self._example_inputs = example_inputs
        self._module = module
        self._log_every = log_every
        self._logged = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Trace and attach: the strategy has set up by now, and checkpoints are restored."""
        example = self._example_inputs
        if example is None:
            example = pl_module.example_input_array
        if example is None:
            raise GammaslimError(
                f"Slimming was given no example_inputs, and {type(pl_module).__name__} has no "
                "example_input_array. Give either: a tensor, a tuple or a dict."
            )
        network = pl_module.get_submodule(self._module)
        steps = Steps(_total(trainer, pl_module), trainer.global_step)
        self.begin(network, example, trainer.optimizers, steps)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log, at most once per optimizer step: batches that only accumulate end here too."""
        step = trainer.global_step
        every = self._log_every or trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        # 0 switches a Trainer's logging off.
        if every and step % every == 0 and step != self._logged:
            self._logged = step
            pl_module.log_dict(self.logs())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Detach."""
        self.end()

    def on_exception(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Detach."""
        self.end()


def _total(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """The optimizer steps of the whole fit, unless it is endless or its code steps by itself."""
    if not pl_module.automatic_optimization:
        return None
    total = trainer.estimated_stepping_batches
    return int(total) if math.isfinite(total) and total >= 0 else None
