"""Other dimensions, inputs and outputs, shared weights, and training-only behaviour."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.nets.case import CLASSES, Case, Head, around, cbr, image, noise


def perceptron() -> nn.Module:
    """Flatten into linear layers with BatchNorm1d."""
    return nn.Sequential(
        cbr(3, 8, stride=2), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(20, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def flattened_norm() -> nn.Module:
    """A BatchNorm1d over the flattened feature map: one channel has many scales in one layer."""
    return nn.Sequential(
        cbr(3, 6, stride=2), nn.MaxPool2d(4), nn.Flatten(), nn.BatchNorm1d(24), nn.ReLU(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


def volumetric() -> nn.Module:
    """Three spatial dimensions."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.BatchNorm3d(8), nn.ReLU(),
        nn.Conv3d(8, 12, 1), nn.BatchNorm3d(12), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def signal() -> nn.Module:
    """One spatial dimension, with dilation."""
    return nn.Sequential(
        nn.Conv1d(2, 10, 5, padding=2), nn.BatchNorm1d(10), nn.GELU(), nn.AvgPool1d(2),
        nn.Conv1d(10, 12, 3, padding=2, dilation=2), nn.BatchNorm1d(12), nn.SiLU(),
        nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(12, CLASSES),
    )  # fmt: skip


class Twice(nn.Module):
    """One convolution and its norm run twice."""

    def __init__(self) -> None:
        """A single block."""
        super().__init__()
        self.block = cbr(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to its own output."""
        return self.block(self.block(x))


class SharedNorm(nn.Module):
    """Two convolutions, one BatchNorm for both."""

    def __init__(self) -> None:
        """Two branches."""
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 10, 1), nn.Conv2d(16, 10, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        """Join the normalised branches."""
        return torch.cat(
            (
                nn.functional.relu(self.norm(self.left(x))),
                nn.functional.relu(self.norm(self.right(x))),
            ),
            1,
        )


class Tied(nn.Module):
    """Two convolutions that hold the same parameter under two names."""

    def __init__(self) -> None:
        """Norms of their own."""
        super().__init__()
        self.first, self.second = cbr(16, 16), cbr(16, 16)
        self.second[0].weight = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """One after the other."""
        return self.second(self.first(x))


class Recurrent(nn.Module):
    """Convolutional features read row by row by a recurrent layer of the given kind."""

    def __init__(self, kind: type[nn.RNNBase], **options: bool) -> None:
        """A hidden size of ten, two layers."""
        super().__init__()
        self.features = nn.Sequential(cbr(3, 8, stride=2), cbr(8, 12, stride=2))
        self.rnn = kind(12, 10, num_layers=2, batch_first=True, **options)
        self.fc = nn.Linear(20 if options else 10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify by the last state."""
        return self.fc(self.rnn(self.features(x).mean(2).transpose(1, 2))[0][:, -1])


class Cells(nn.Module):
    """The same, with a cell that the network itself steps along the row."""

    def __init__(self) -> None:
        """A hidden size of ten."""
        super().__init__()
        self.features = nn.Sequential(cbr(3, 8, stride=2), cbr(8, 12, stride=2))
        self.cell, self.fc = nn.GRUCell(12, 10), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify by the last state."""
        state = None
        for column in self.features(x).mean(2).unbind(2):
            state = self.cell(column, state)
        return self.fc(state)


class Prototypes(nn.Module):
    """Distances of the pooled features to learnt points."""

    def __init__(self, count: int) -> None:
        """``count`` points, beyond 25 of which PyTorch takes another way."""
        super().__init__()
        self.features = nn.Sequential(cbr(3, 8, stride=2), cbr(8, 12, stride=2)[:2])
        self.points = nn.Parameter(torch.randn(count, 12))

    def forward(self, x: Tensor) -> Tensor:
        """The nearer, the larger."""
        return -torch.cdist(self.features(x).mean((2, 3)), self.points)


class Generator(nn.Module):
    """A decoder that makes maps of a vector with PyTorch's own ``Unflatten``."""

    def __init__(self) -> None:
        """Maps of 8 channels, 4 x 4."""
        super().__init__()
        self.encode = nn.Sequential(cbr(3, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.widen, self.norm = nn.Linear(8, 8 * 16), nn.BatchNorm1d(8 * 16)
        up = nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False)
        whole = nn.Unflatten(1, (8, 4, 4))
        self.decode = nn.Sequential(whole, up, nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Encode, widen, decode."""
        return self.decode(self.norm(self.widen(self.encode(x))))


class Outputs(nn.Module):
    """Two heads; what is returned depends on ``kind``."""

    def __init__(self, kind: str) -> None:
        """A shared trunk, a classifier and a feature map."""
        super().__init__()
        self.kind, self.trunk, self.side = kind, cbr(3, 12), cbr(12, 6)
        self.head = nn.Sequential(cbr(12, 10), Head(10))

    def forward(self, x: Tensor) -> Any:
        """A tuple or a dict."""
        trunk = self.trunk(x)
        logits, features = self.head(trunk), self.side(trunk)
        if self.kind == "tuple":
            return logits, features
        return {"logits": logits, "features": [features]}


class Auxiliary(nn.Module):
    """A second classifier that only training sees."""

    def __init__(self) -> None:
        """The auxiliary head has a norm of its own."""
        super().__init__()
        self.stem, self.body = cbr(3, 12), cbr(12, 16, stride=2)
        self.head, self.aux = Head(16), nn.Sequential(cbr(12, 8, stride=2), Head(8))

    def forward(self, x: Tensor) -> Any:
        """One output in evaluation, two in training."""
        stem = self.stem(x)
        logits = self.head(self.body(stem))
        return (logits, self.aux(stem)) if self.training else logits


class StochasticDepth(nn.Module):
    """A residual branch dropped at random in training."""

    def __init__(self) -> None:
        """Drops half the time."""
        super().__init__()
        self.body = nn.Sequential(cbr(16, 10), nn.Dropout2d(0.3), cbr(10, 16)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Python decides per batch, a mask per sample."""
        if self.training and torch.rand(()) < 0.5:
            return x
        branch = self.body(x)
        if self.training:
            branch = branch * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.8) / 0.8
        return nn.functional.relu(x + branch)


class Tokens(nn.Module):
    """An embedding and one-dimensional convolutions over integer tokens."""

    def __init__(self) -> None:
        """Thirty words."""
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.conv, self.norm = nn.Conv1d(12, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """The largest response over the sentence."""
        x = self.embed(tokens).transpose(1, 2)
        return self.fc(nn.functional.relu(self.norm(self.conv(x))).amax(2))


class Keywords(nn.Module):
    """Inputs by name."""

    def __init__(self) -> None:
        """An image and a vector."""
        super().__init__()
        self.features, self.vector = cbr(3, 12), nn.Linear(4, 12)
        self.head = nn.Sequential(cbr(12, 10), Head(10))

    def forward(self, *, image: Tensor, vector: Tensor) -> Tensor:
        """The vector shifts the channels."""
        return self.head(self.features(image) + self.vector(vector)[:, :, None, None])


class Siamese(nn.Module):
    """Two images through one trunk."""

    def __init__(self) -> None:
        """The trunk is called twice."""
        super().__init__()
        self.trunk, self.head = cbr(3, 12), nn.Sequential(cbr(12, 10), Head(10))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Classify the absolute difference."""
        return self.head((self.trunk(left) - self.trunk(right)).abs())


class Steps(nn.Module):
    """Parameters that no module owns: a scale and a shift from a ParameterList."""

    def __init__(self) -> None:
        """Broadcast over the batch, height and width."""
        super().__init__()
        self.conv = cbr(16, 16)[:2]
        self.numbers = nn.ParameterList([torch.rand(16, 1, 1), torch.rand(1, 16, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Scale, then shift."""
        return nn.functional.relu(self.conv(x) * self.numbers[0] + self.numbers[1])


class Unused(nn.Module):
    """Holds a layer that no forward reaches."""

    def __init__(self) -> None:
        """One live block, one dead convolution with its norm."""
        super().__init__()
        self.live, self.dead = cbr(16, 16), cbr(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Only the live block runs."""
        return self.live(x)


def named_inputs() -> dict[str, Tensor]:
    """An image and a vector for :class:`Keywords`."""
    return {"image": image(), "vector": noise(2, 4)()}


def pair() -> tuple[Tensor, Tensor]:
    """Two different images."""
    first = image()
    return first, first.flip(0)


def words() -> Tensor:
    """Two sentences of nine tokens."""
    return torch.arange(18).reshape(2, 9) * 7 % 30


INTERFACES: tuple[Case, ...] = (
    Case("perceptron", perceptron, image, 1.0, "BatchNorm1d between linears"),
    Case("flattened_norm", flattened_norm, image, 1.0, "BatchNorm1d after flatten"),
    Case("volumetric", volumetric, noise(2, 1, 6, 6, 6), 1.0, "BatchNorm3d"),
    Case("signal", signal, noise(2, 2, 24), 1.0, "BatchNorm1d over time"),
    Case("shared_conv", lambda: around(Twice()), image, 1.0, "one block called twice"),
    Case("shared_norm", lambda: around(SharedNorm(), 16, 20), image, 1.0, "one norm, two calls"),
    Case("tied", lambda: around(Tied()), image, 1.0, "one parameter, two names"),
    Case("lstm", lambda: Recurrent(nn.LSTM), image, 1.0, "LSTM head", counted=False),
    Case("lstm_both_ways", lambda: Recurrent(nn.LSTM, bidirectional=True), image, 1.0,
         "bidirectional LSTM", counted=False),
    Case("gru", lambda: Recurrent(nn.GRU), image, 1.0, "GRU head", counted=False),
    Case("gru_cells", Cells, image, 1.0, "a cell stepped by the network's code", counted=False),
    Case("prototypes", lambda: Prototypes(6), image, 1.0, "distances", zero=False),
    Case("many_prototypes", lambda: Prototypes(40), image, 1.0, "distances by a product",
         zero=False),
    Case("unflatten", Generator, image, 14 / 142, "torch's own Unflatten"),
    Case("tuple_outputs", lambda: Outputs("tuple"), image, 22 / 28, "a feature map is returned"),
    Case("dict_outputs", lambda: Outputs("dict"), image, 22 / 28, "nested outputs"),
    Case("auxiliary", Auxiliary, image, 1.0, "a head only training sees"),
    Case("stochastic_depth", lambda: around(StochasticDepth()), image, 1.0, "random branches"),
    Case("tokens", Tokens, words, 1.0, "integer inputs"),
    Case("keywords", Keywords, named_inputs, 1.0, "inputs by name", zero=False),
    Case("siamese", Siamese, pair, 1.0, "two inputs"),
    Case("parameter_list", lambda: around(Steps()), image, 1.0, "free parameters", zero=False),
    Case("unused", lambda: around(Unused()), image, 44 / 48, "a layer that never runs",
         counted=False),
)  # fmt: skip
