"""Parameter groups for an optimizer: weight decay spares what a penalty acts on."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import nn

from gammaslim.channels import ChannelGraph
from gammaslim.errors import OptimizerError
from gammaslim.network import named_tensors, unwrap

Style = Literal["timm", "torch"]


def param_groups(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    weight_decay: float = 0.0,
    scale_decay: float = 0.0,
    style: Style = "timm",
) -> list[dict[str, Any]]:
    """The trainable parameters in groups, scales and shifts apart and without weight decay.

    Decay pulls on a scale as L1 does, only by ``weight_decay · γ``: with both, neither does what it
    says.  Decay of the weights before a BatchNorm, on the other hand, leaves γ alone.

    Args:
        model: the network that ``graph`` was traced from.
        graph: its channels; the scales are those of its BatchNorms, frozen or not.
        weight_decay: of the weights.
        scale_decay: of scales and shifts.
        style: ``"timm"`` decays neither biases nor any other vector; ``"torch"`` decays all that is
            no scale or shift.

    Returns:
        For any optimizer: ``[{"params": [...], "weight_decay": ..., "name": ...}, ...]``, named
        ``weights``, ``biases``, ``scales`` and ``shifts``; those without parameters are left out.

    Raises:
        OptimizerError: ``style`` is unknown, or a decay is negative or NaN.

    Example:
        >>> torch.optim.SGD(gs.param_groups(model, graph, weight_decay=5e-4), lr=0.1, momentum=0.9)
    """
    if style not in get_args(Style):
        raise OptimizerError(f"style={style!r} was asked; known are 'timm' and 'torch'.")
    for name, value in (("weight_decay", weight_decay), ("scale_decay", scale_decay)):
        if not value >= 0:
            raise OptimizerError(f"{name}={value!r} was asked; it must be 0 or above.")
    decay = {"weights": weight_decay, "scales": scale_decay, "shifts": scale_decay}
    decay["biases"] = 0.0 if style == "timm" else weight_decay
    scales, shifts = set(graph.scales), set(graph.shifts.values())
    members: dict[str, dict[int, nn.Parameter]] = {name: {} for name in ("weights", "biases")}
    members |= {"scales": {}, "shifts": {}}
    for name, tensor in named_tensors(unwrap(model)).items():
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            kind = "scales" if name in scales else "shifts" if name in shifts else None
            kind = kind or ("biases" if tensor.ndim <= 1 else "weights")
            if not any(id(tensor) in found for found in members.values()):
                members[kind][id(tensor)] = tensor
    return [
        {"params": list(found.values()), "weight_decay": decay[name], "name": name}
        for name, found in members.items()
        if found
    ]
