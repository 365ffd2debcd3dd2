"""Which networks the zoo holds, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo import toys

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Entry:
    """One network: who offers it, under which name, and what to run it on.

    ``size`` is the height and width of its images, small where the network accepts that;
    ``options`` are its constructor's (its configuration's, for transformers) further arguments.
    ``slow`` keeps it out of the ordinary tests; ``coverage`` is the least that those accept.
    """

    name: str
    library: str
    size: int = 64
    options: Options = ()
    slow: bool = False
    coverage: float = 0.95
    note: str = ""

    @property
    def key(self) -> str:
        """The name that results are filed under."""
        return f"{self.library}:{self.name}"


def from_timm(entry: Entry) -> nn.Module:
    """Random weights; nothing is downloaded."""
    import timm

    return timm.create_model(entry.name, pretrained=False, **dict(entry.options))


def from_torchvision(entry: Entry) -> nn.Module:
    """Likewise."""
    from torchvision import models

    return models.get_model(entry.name, weights=None, **dict(entry.options))


def from_transformers(entry: Entry) -> nn.Module:
    """Its image classifier, from a configuration built by hand."""
    import transformers

    configuration = getattr(transformers, f"{entry.name}Config")(**dict(entry.options))
    return getattr(transformers, f"{entry.name}ForImageClassification")(configuration)


def from_here(entry: Entry) -> nn.Module:
    """One of ours."""
    return getattr(toys, entry.name)()


MAKERS: dict[str, Callable[[Entry], nn.Module]] = {
    "timm": from_timm,
    "torchvision": from_torchvision,
    "transformers": from_transformers,
    "toy": from_here,
}


def build(entry: Entry, seed: int = 0) -> nn.Module:
    """The network with reproducible random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MAKERS[entry.library](entry)


def images(entry: Entry, seed: int, batch: int = 2) -> Tensor:
    """Images of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, entry.size, entry.size, generator=generator)


def timm(name: str, **fields: Any) -> Entry:
    """A network of timm."""
    return Entry(name, "timm", **fields)


def torchvision(name: str, **fields: Any) -> Entry:
    """A network of torchvision."""
    return Entry(name, "torchvision", **fields)


def transformers(name: str, **fields: Any) -> Entry:
    """An image classifier of transformers."""
    return Entry(name, "transformers", **fields)


NO_INITIAL_WEIGHTS: Options = (("init_weights", False),)  # or they are drawn for half a minute
NO_BACKBONE: Options = (("weights_backbone", None),)  # or it is downloaded

TIMM = (
    timm("mobileone_s1"),
    timm("convmixer_768_32"),
    timm("cs3darknet_focus_s"),
    timm("densenet121"),
    timm("dpn48b"),
    timm("efficientformer_l1", size=224),
    timm("efficientvit_b0"),
    timm("fasternet_t0"),
    timm("fastvit_t8"),
    timm("ghostnet_050"),
    timm("hgnetv2_b0"),
    timm("hrnet_w18_small"),
    timm("inception_v3", size=96, slow=True),
    timm("inception_resnet_v2", size=96, slow=True),
    timm("levit_128s", size=224),
    timm("mobilenetv2_035"),
    timm("mobilenetv3_small_050"),
    timm("mobilevit_xxs"),
    timm("nasnetalarge", slow=True),
    timm("pnasnet5large", slow=True),
    timm("regnetx_002"),
    timm("repvit_m1"),
    timm("res2next50"),
    timm("resnest14d"),
    timm("resnet10t"),
    timm("resnetv2_18"),
    timm("rexnet_100"),
    timm("selecsls42"),
    timm("legacy_seresnet18"),
    timm("shvit_s1"),
    timm("skresnet18"),
    timm("starnet_s050"),
    timm("tiny_vit_5m_224", size=224),
    timm("tresnet_m"),
    timm("vgg11_bn", slow=True),
    timm("visformer_tiny", size=224),
    timm("xception41p"),
)

TORCHVISION = (
    torchvision("densenet121"),
    torchvision("efficientnet_b0"),
    torchvision("efficientnet_v2_s", slow=True),
    torchvision("googlenet", size=96, options=(*NO_INITIAL_WEIGHTS, ("aux_logits", True))),
    torchvision("inception_v3", size=299, options=NO_INITIAL_WEIGHTS, slow=True),
    torchvision("maxvit_t", size=224, slow=True),
    torchvision("mnasnet0_5"),
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("regnet_x_400mf"),
    torchvision("regnet_y_400mf"),
    torchvision("resnet18"),
    torchvision("resnext50_32x4d"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("vgg11_bn", slow=True),
    torchvision("wide_resnet50_2"),
    torchvision("fcn_resnet50", options=NO_BACKBONE),
)
"""The smallest member of every family of classifiers with BatchNorm, and a segmenter."""

SMALL_STAGES: Options = (
    ("embedding_size", 32),
    ("hidden_sizes", [32, 64, 128, 256]),
    ("depths", [2, 2, 2, 2]),
)

TRANSFORMERS = (
    transformers("ResNet", options=(*SMALL_STAGES, ("layer_type", "bottleneck"))),
    transformers("RegNet", options=(*SMALL_STAGES, ("groups_width", 16))),
    transformers("MobileNetV2", options=(("depth_multiplier", 0.5),)),
)

TOYS = (Entry("yolo_c2f", "toy"), Entry("yolo_c3k2", "toy"), Entry("unet", "toy"))

ENTRIES = TIMM + TORCHVISION + TRANSFORMERS + TOYS
