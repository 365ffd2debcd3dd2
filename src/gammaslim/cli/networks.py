"""Networks by name, for the command line: from timm, torchvision, or any importable module."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammaslim.arrays import Site
from gammaslim.channels import Slice
from gammaslim.errors import GammaslimError, MissingExtraError

DEFAULT_SHAPE = (1, 3, 224, 224)


def load_network(spec: str) -> nn.Module:
    """The network that ``spec`` names, with random weights; nothing is downloaded.

    Raises:
        GammaslimError: the text has no such form, or what it names cannot be found or made.
        MissingExtraError: timm or torchvision is asked for and cannot be imported.
    """
    source, separator, name = spec.partition(":")
    if not (source and separator and name):
        raise GammaslimError(
            f"{spec!r} was asked for. Name a network as timm:resnet50, torchvision:resnet18, or "
            "package.module:callable."
        )
    make = {"timm": _from_timm, "torchvision": _from_torchvision}.get(source)
    model: object = make(name) if make is not None else _from_module(source, name)
    if not isinstance(model, nn.Module):
        raise GammaslimError(
            f"{spec!r} should give a torch.nn.Module; it gave {type(model).__name__}. Name a "
            "callable that returns the network."
        )
    return model


def example_for(model: nn.Module, shape: tuple[int, ...] | None) -> Tensor:
    """A random example input: of ``shape``, else of the model's own configuration, else 224x224."""
    for attribute in ("pretrained_cfg", "default_cfg"):  # timm's
        configuration = getattr(model, attribute, None)
        if shape is None and isinstance(configuration, dict) and "input_size" in configuration:
            shape = (1, *map(int, configuration["input_size"]))
    return torch.randn(shape or DEFAULT_SHAPE, generator=torch.Generator().manual_seed(0))


def parse_shape(text: str) -> tuple[int, ...]:
    """``"1,3,224,224"`` as numbers.

    Raises:
        GammaslimError: something else, or a size below 1.
    """
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise GammaslimError(
            f"--input {text!r} was asked; a shape is positive whole numbers with commas between "
            "them, the batch first, such as 1,3,224,224."
        )
    return tuple(int(part) for part in parts)


def _from_timm(name: str) -> object:
    timm = _library("timm", "timm")
    try:
        return timm.create_model(name, pretrained=False)
    except Exception as error:
        close = timm.list_models(f"*{name.partition('.')[0]}*")[:5]
        hint = f" Similar names: {', '.join(close)}." if close else ""
        raise GammaslimError(f"timm cannot make {name!r}: {_said(error)}.{hint}") from error


def _from_torchvision(name: str) -> object:
    models = _library("torchvision.models", "torchvision")
    try:
        builder = models.get_model_builder(name)
        options: dict[str, Any] = {"weights": None}
        if "weights_backbone" in inspect.signature(builder).parameters:
            options["weights_backbone"] = None  # or a detector downloads its backbone
        if name in {"googlenet", "inception_v3"}:
            options["init_weights"] = False  # or they draw initial weights for half a minute
        return builder(**options)
    except Exception as error:
        raise GammaslimError(
            f"torchvision cannot make {name!r}: {_said(error)}. "
            "torchvision.models.list_models() has its names."
        ) from error


def _from_module(module: str, name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise GammaslimError(
            f"The module {module!r} cannot be imported: {_said(error)}. It is looked for in the "
            "current folder and among installed packages."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise GammaslimError(f"{module!r} was imported, but has no {name!r}.")
        found = getattr(found, part)
    if not callable(found):
        raise GammaslimError(
            f"{module}:{name} is a {type(found).__name__}, which cannot be called. Name a "
            "callable that returns the network."
        )
    try:
        return found()
    except Exception as error:
        raise GammaslimError(
            f"{module}:{name} was called without arguments and raised {_said(error)}. Name a "
            "callable that needs none and returns the network."
        ) from error


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        # Not only ImportError: torchvision's CUDA build raises RuntimeError beside a CPU torch.
        raise MissingExtraError(
            f"The network comes from {package}, which cannot be imported: {_said(error)}. Install "
            "it with pip install 'gammaslim[train]', and let torch and torchvision be builds of "
            "one kind (both CPU or both CUDA) and of matching versions."
        ) from error


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def parse_site(text: str, tensors: Collection[str]) -> Site | Slice:
    """``"conv.weight:1"`` or ``"conv.weight:1:3"``; a name by itself is dimension 0, of its weight.

    ``tensors``: the names of all that the network has.

    Raises:
        GammaslimError: what follows the name is no dimension, or no index.
    """
    name, *numbers = text.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise GammaslimError(
            f"{text!r} was asked for. Write NAME, NAME:DIMENSION or NAME:DIMENSION:INDEX, such as "
            "layer1.0.conv1.weight:1:3."
        )
    if name not in tensors and f"{name}.weight" in tensors:
        name = f"{name}.weight"
    dim = int(numbers[0]) if numbers else 0
    return (name, dim, int(numbers[1])) if len(numbers) > 1 else (name, dim)
