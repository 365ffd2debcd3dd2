"""Training a cut architecture from scratch, or with what the uncut network knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from gammaslim.errors import GammaslimError
from gammaslim.network import first_paths, unwrap


def reset_parameters(model: nn.Module) -> nn.Module:
    """Draw all weights anew, as PyTorch's layers do when they are made; the architecture stays.

    What is left after a cut can be trained from scratch: often as good as fine-tuning, if trained
    as long.  BatchNorms start with scales 1 and fresh statistics.  Draws from PyTorch's global
    generator.

    Returns:
        ``model``.

    Raises:
        GammaslimError: a module holds parameters of its own and has no ``reset_parameters``;
            nothing has been changed.

    Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, arXiv 1810.05270.
    """
    modules = first_paths(unwrap(model))
    resets: list[Callable[[], Any]] = []
    for module, path in modules.items():
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            resets.append(reset)
        elif own := [name for name, _ in module.named_parameters(recurse=False)]:
            raise GammaslimError(
                f"The network was to be drawn anew, but {path or 'the network itself'} "
                f"({type(module).__name__}) holds {own[0]!r} and has no reset_parameters method. "
                "Give it one that fills its parameters."
            )
    for reset in resets:
        reset()
    return model


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """``T² · KL(softmax(z_t / T) ‖ softmax(z_s / T))``, the mean over all but the last dimension.

    The uncut network's logits say more than the labels; add this to the loss of the cut one.

    Args:
        student: logits of the cut network, ``[..., classes]``.
        teacher: logits of the uncut one on the same inputs, without gradient.
        temperature: T; above 0.  The factor T² keeps the gradient's size.

    Raises:
        GammaslimError: the shapes differ, or the temperature is not above 0.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """
    if student.shape != teacher.shape or not temperature > 0:
        raise GammaslimError(
            f"distillation_loss was given logits of shapes {list(student.shape)} and "
            f"{list(teacher.shape)} and temperature={temperature!r}; it needs equal shapes and a "
            "temperature above 0."
        )
    ours = functional.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    theirs = functional.log_softmax(teacher.detach() / temperature, dim=-1).flatten(0, -2)
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
