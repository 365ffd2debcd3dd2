"""The figures of a handle in TensorBoard."""

from __future__ import annotations

from typing import Any

from gammaslim.integrations.common import PREFIX
from gammaslim.training import Attachment


def log_stats(writer: Any, handle: Attachment, step: int) -> None:
    """Write the handle's figures as scalars, each name with ``"gammaslim/"`` before it.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or anything with its ``add_scalar``.
        handle: what :func:`gammaslim.attach` returned.
        step: the optimizer step they belong to.
    """
    for name, value in handle.stats().as_dict().items():
        writer.add_scalar(f"{PREFIX}{name}", value, step)
