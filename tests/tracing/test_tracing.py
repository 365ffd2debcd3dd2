"""Tracing leaves everything as it was, takes wrappers off, and says what it could not do."""

from __future__ import annotations

import importlib
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

import gammaslim as gs
from bench import oracle
from tests.nets.case import Head, cbr, image


def build() -> nn.Module:
    """Two blocks and a head, with reproducible weights."""
    torch.manual_seed(0)
    model = nn.Sequential(cbr(3, 8, stride=2), cbr(8, 6, stride=2), Head(6))
    oracle.randomise_batchnorms(model, 0)
    return model


def half(graph: gs.ChannelGraph, seed: int = 0) -> gs.Plan:
    """A plan that removes about half, by random scores."""
    return gs.select(graph, oracle.random_scores(graph, seed), remove_channels=0.5)


def bare(graph: gs.ChannelGraph) -> tuple:
    """What two graphs of the same network must agree in."""
    sites = {site: ids.tolist() for site, ids in graph.sites.items()}
    return sites, graph.prunable.tolist(), graph.exact.tolist(), graph.cost(), graph.scales


# The model comes back as it was


def test_tensors_gradients_and_versions():
    """Values, identities, gradients and the counters of in-place writes."""
    model = build()
    model(image()).mean().backward()
    before = oracle.snapshot(model)
    gs.trace(model, image())
    assert oracle.snapshot(model) == before


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_mixed_per_module(training):
    """A frozen BatchNorm in a training network, and the reverse."""
    model = build().train(training)
    model[0][1].training = not training
    before = [module.training for module in model.modules()]
    gs.trace(model, image())
    after = [module.training for module in model.modules()]
    assert after == before
    assert {type(flag) for flag in after} == {bool}


def test_hooks_stay_and_run():
    """A user's hooks are part of the network: they run, and are still there."""
    model, seen = build(), Counter()
    handles = [
        model[0].register_forward_hook(lambda *_: seen.update(["forward"])),
        model[0].register_forward_pre_hook(lambda *_: seen.update(["before"])),
        model[0].register_full_backward_hook(lambda *_: seen.update(["backward"])),
    ]
    gs.trace(model, image())
    during = dict(seen)
    assert during["forward"] == during["before"] >= 1
    model(image().requires_grad_()).mean().backward()
    assert seen["forward"] == during["forward"] + 1
    assert seen["backward"] == 1
    for handle in handles:
        handle.remove()
    assert not model[0]._forward_hooks


def test_a_hook_that_changes_the_output_is_followed():
    """Its operators count like the network's own."""
    model = build()
    handle = model[0].register_forward_hook(lambda _m, _i, out: out.cumsum(1))
    graph = gs.trace(model, image())
    handle.remove()
    assert any("cumsum" in record.reason for record in graph.frozen)


def test_random_states():
    """torch's, numpy's and Python's."""
    model = nn.Sequential(build(), nn.Dropout())
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    gs.trace(model, image())
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


class Caching(nn.Module):
    """A forward that writes attributes of every kind."""

    def __init__(self):
        super().__init__()
        self.body = build()
        self.calls, self.cache, self.names = 0, None, ["x"]
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache = x
        self.width = x.shape[1]
        self.mean = self.mean * 0.9 + 0.1 * x.detach().mean((0, 2, 3))
        self.body[0].seen = self.body[0](x).shape[1]
        return self.body(x)


def test_attributes_that_forward_writes_are_restored():
    """Counters, caches, new attributes, buffers that are replaced."""
    model = Caching()
    mean = model.mean
    gs.trace(model, image())
    assert (model.calls, model.cache, model.names) == (0, None, ["x"])
    assert type(model.calls) is int
    assert not hasattr(model, "width")
    assert not hasattr(model.body[0], "seen")
    assert model.mean is mean
    assert torch.equal(mean, torch.zeros(3))


def test_attributes_are_restored_when_forward_fails():
    """Half-way through, after it has written."""

    class Failing(Caching):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise ValueError("too late")

    model = Failing().eval()
    before = oracle.snapshot(model)
    with pytest.raises(gs.TraceError, match="too late"):
        gs.trace(model, image())
    assert oracle.snapshot(model) == before


def test_example_inputs_are_not_written_to():
    """A forward that works in place does so on copies."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = build()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.mul_(2))

    x = image()
    graph = gs.trace(InPlace(), x)
    assert torch.equal(x, image())
    assert x._version == 0
    assert free_channels(graph) == 14


def free_channels(graph: gs.ChannelGraph) -> int:
    """How many may go."""
    return int(graph.prunable.sum())


def test_the_same_graph_twice():
    """Nothing about a trace depends on what was traced before, nor on the mode."""
    model = build()
    first = bare(gs.trace(model, image()))
    assert bare(gs.trace(model, image())) == first
    assert bare(gs.trace(model.eval(), image())) == first


# Without memory


def test_meta_device():
    """A network of shapes only is traced and cut; there is nothing to verify."""
    with torch.device("meta"):
        model, x = build_plain(), torch.zeros(2, 3, 16, 16)
    graph = gs.trace(model, x)
    assert bare(graph) == bare(gs.trace(build_plain(), image()))
    outcome = gs.prune(model, graph, half(graph))
    assert np.isnan(outcome.drift)
    assert "meta" in outcome.message
    assert sum(p.numel() for p in model.parameters()) == outcome.after.params
    assert all(p.is_meta for p in model.parameters())


def build_plain() -> nn.Module:
    """The network without numbers of its own."""
    return nn.Sequential(cbr(3, 8, stride=2), cbr(8, 6, stride=2), Head(6))


def test_meta_network_with_a_real_example():
    """An example image will often be real."""
    with torch.device("meta"):
        model = build_plain()
    try:
        graph = gs.trace(model, image())
    except gs.TraceError as error:
        assert "meta" in str(error)  # noqa: PT017 - either answer is fine; a crash is not
    else:
        assert free_channels(graph) == 14


# Wrappers


@pytest.fixture
def process_group(tmp_path):
    """A process group of one, meeting in a file."""
    store = f"file://{tmp_path / 'rendezvous'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def check_wrapper(wrapped: nn.Module, inner: nn.Module, path: Path) -> None:
    """Traced, cut and saved as if it were the network itself."""
    graph = gs.trace(wrapped, image())
    assert bare(graph) == bare(gs.trace(inner, image()))
    assert graph.scales == ("0.1.weight", "1.1.weight")
    assert len(gs.scores(wrapped, graph)) == graph.num_channels
    outcome = gs.prune(wrapped, graph, half(graph))
    assert sum(p.numel() for p in inner.parameters()) == outcome.after.params
    gs.save(wrapped, path)
    fresh = gs.load(build(), path)
    for a, b in zip(oracle.outputs(fresh, image()), oracle.outputs(inner, image()), strict=True):
        assert torch.equal(a, b)


def test_data_parallel(tmp_path):
    """``module`` inside."""
    model = build()
    check_wrapper(nn.DataParallel(model), model, tmp_path / "slim.safetensors")


def test_compiled(tmp_path):
    """``_orig_mod`` inside; nothing is compiled for it."""
    model = build()
    check_wrapper(torch.compile(model), model, tmp_path / "slim.safetensors")


def test_compiled_around_data_parallel(tmp_path):
    """Wrappers in wrappers."""
    model = build()
    wrapped = torch.compile(nn.DataParallel(model))
    check_wrapper(wrapped, model, tmp_path / "slim.safetensors")


def test_distributed_data_parallel(process_group, tmp_path):
    """One process, over gloo."""
    model = build()
    wrapped = nn.parallel.DistributedDataParallel(model)
    check_wrapper(wrapped, model, tmp_path / "slim.safetensors")


# Inputs


class Inputs(nn.Module):
    """Takes a picture and a shift, whichever way they come."""

    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, x: Tensor, shift: Tensor | None = None, *, flip: bool = False) -> Tensor:
        x = x.flip(-1) if flip else x
        return self.body(x if shift is None else x + shift)


class Batch(nn.Module):
    """Takes one dict."""

    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.body(batch["image"])}


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (Inputs, image()),
        (Inputs, (image(),)),
        (Inputs, (image(), torch.zeros(2, 1, 1, 1))),
        (Inputs, {"x": image()}),
        (Inputs, {"x": image(), "flip": True}),
        (Batch, {"image": image()}),
        (Batch, ({"image": image()},)),
    ],
    ids=["tensor", "tuple", "two", "keywords", "option", "dict", "dict in tuple"],
)
def test_ways_to_give_inputs(make, inputs):
    """All lead to the same channels, and to a verified cut."""
    model = make()
    graph = gs.trace(model, inputs)
    assert free_channels(graph) == 14
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


# Options


@pytest.mark.parametrize(
    "entry",
    [
        lambda model: [model[0]],
        lambda model: model[0],
        lambda _: "0",
        lambda _: ["0.0"],
        lambda _: ["0.*"],
        lambda _: ["[0].?"],
        lambda _: ["0.1.weight"],
        lambda _: [("0.0.weight", 0)],
        lambda _: {("1.0.weight", 1)},
    ],
    ids=[
        "module",
        "bare module",
        "bare name",
        "name",
        "pattern",
        "inner pattern",
        "tensor",
        "site",
        "columns",
    ],
)
def test_ignore(entry):
    """The first block's eight channels stay, however they are named."""
    model = build()
    graph = gs.trace(model, image(), ignore=entry(model))
    assert free_channels(graph) == 6
    ids = graph.sites[("0.1.weight", 0)]
    (group,) = (g for g in graph.groups if ids[0] in g.channels)
    assert group.reason == "ignored by the user"
    assert graph.coverage == 6 / 14


def test_ignore_adds_up():
    """A module, a name and a pattern at once."""
    model = build()
    graph = gs.trace(model, image(), ignore=[model[0][0], "1.0.weight", "2.f*"])
    assert free_channels(graph) == 0


def test_exact_keeps_what_counts():
    """A mean over channels marks them; ``exact=True`` keeps them."""

    class Attended(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean(1, keepdim=True).sigmoid()

    model = nn.Sequential(cbr(3, 8), Attended(), cbr(8, 6), Head(6))
    assert free_channels(gs.trace(model, image())) == 14
    graph = gs.trace(model, image(), exact=True)
    assert free_channels(graph) == 6
    assert graph.exact[graph.prunable].all()


# What could not be followed


class Reading(nn.Module):
    """Python that looks at values."""

    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if x.abs().max().item() > 0 else 1.0
        return self.body(x * scale)


def test_values_are_read_on_real_tensors():
    """Fake tensors have none; the graph is the same and says so."""
    model = Reading()
    before = oracle.snapshot(model)
    graph = gs.trace(model, image())
    assert oracle.snapshot(model) == before
    assert any("real tensors" in note for note in graph.notes)
    assert free_channels(graph) == 14
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


class EvaluationOnly(nn.Module):
    """Refuses to train."""

    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("targets are needed in training")
        return self.body(x)


def test_training_mode_that_cannot_run_is_noted():
    """A warning now, a note in the graph; the cut is verified in evaluation mode."""
    model = EvaluationOnly()
    with pytest.warns(gs.GammaslimWarning, match="targets are needed in training"):
        graph = gs.trace(model, image())
    assert any(note.startswith("Training mode could not be traced") for note in graph.notes)
    assert free_channels(graph) == 14
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


def test_what_only_training_reaches_counts():
    """An auxiliary branch unites what it adds."""

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = cbr(3, 8), cbr(3, 8)
            self.head, self.other = Head(8), Head(8)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            a, b = self.one(x), self.two(x)
            if self.training:
                return self.head(a), self.other(a + b)
            return self.head(a)

    graph = gs.trace(Auxiliary(), image())
    one, two = graph.sites[("one.0.weight", 0)], graph.sites[("two.0.weight", 0)]
    assert one.tolist() == two.tolist()
    assert free_channels(graph) == 8


class Idle(nn.Module):
    """Owns a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.body, self.idle = build(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_what_no_mode_reaches_is_kept():
    """And reported."""
    graph = gs.trace(Idle(), image())
    assert any(record.reason == "no forward pass reaches it" for record in graph.frozen)
    assert not graph.prunable[graph.sites[("idle.weight", 0)]].any()
    assert free_channels(graph) == 14


def test_batch_of_one_after_global_pooling():
    """BatchNorm refuses one value per channel in training; two pictures do."""
    model = nn.Sequential(cbr(3, 8), nn.AdaptiveAvgPool2d(1), cbr(8, 6, 1), Head(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = gs.trace(model, image()[:1])
        assert not graph.notes
        assert gs.prune(model, graph, half(graph)).drift < 1e-4


class FixedBatch(nn.Module):
    """A batch size written into the code."""

    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.view(2, 3, 16, 16))


def test_batch_size_written_in_the_code():
    """It traces in both modes, so it must be cut too."""
    model = FixedBatch()
    graph = gs.trace(model, image())
    assert not graph.notes
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


# Kinds of BatchNorm, sharing


def test_sync_batch_norm():
    """In training mode it wants a GPU or a process group: noted at most, and cut all the same."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gs.GammaslimWarning)
        graph = gs.trace(model, image())
    assert free_channels(graph) == 14
    assert gs.prune(model, graph, half(graph)).drift < 1e-4
    assert model[0][1].num_features == len(model[0][1].weight)


def test_subclass_of_batch_norm():
    """With an activation of its own, as in timm."""

    class Activated(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), Activated(8), nn.Conv2d(8, 6, 1), Activated(6), Head(6)
    )
    graph = gs.trace(model, image())
    assert graph.scales == ("1.weight", "3.weight")
    gs.prune(model, graph, half(graph))
    assert model[1].num_features == len(model[1].weight) < 8 or model[3].num_features < 6


def test_one_convolution_called_twice():
    """What goes in and what comes out are the same channels."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.head = cbr(3, 8), cbr(8, 8), Head(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.block(self.stem(x))))

    model = Twice()
    graph = gs.trace(model, image())
    rows, columns = graph.sites[("block.0.weight", 0)], graph.sites[("block.0.weight", 1)]
    assert rows.tolist() == columns.tolist() == graph.sites[("stem.0.weight", 0)].tolist()
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


def one_norm_twice() -> nn.Module:
    """One BatchNorm module behind two convolutions."""
    model = nn.Sequential(cbr(3, 8), cbr(8, 8), Head(8))
    model[1][1] = model[0][1]
    return model


def test_one_batch_norm_under_two_names():
    """One tensor, one site; the second name is an alias."""
    model = one_norm_twice()
    graph = gs.trace(model, image())
    assert graph.scales == ("0.1.weight",)
    assert graph.aliases["1.1.weight"] == "0.1.weight"
    one, two = graph.sites[("0.0.weight", 0)], graph.sites[("1.0.weight", 0)]
    assert one.tolist() == two.tolist()
    assert graph.cost().params == sum(p.numel() for p in model.parameters())


SWAPPED = "functional_call swaps a module with two names twice, and leaves the copies in it"


def test_a_module_with_two_names_gets_its_own_parameters_back():
    """The very same objects."""
    model = one_norm_twice()
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    gs.trace(model, image())
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before


def test_a_module_with_two_names_is_cut():
    """Once, for both."""
    model = one_norm_twice()
    graph = gs.trace(model, image())
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


def test_frozen_names_operator_module_and_line():
    """So that the user finds the place in his own code."""

    class Sorting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sort(dim=1).values

    model = nn.Sequential(cbr(3, 8), Sorting(), cbr(8, 6), Head(6))
    graph = gs.trace(model, image())
    (record,) = (r for r in graph.frozen if r.reason == "aten.sort runs along the channels")
    line = Sorting.forward.__code__.co_firstlineno + 1
    assert record.operator == "aten.sort"
    assert record.module == "1"
    assert record.source == f"{Path(__file__)}:{line}"
    assert record.channels == 8
    assert str(record) == f"{record.reason} (aten.sort, 1, {record.source})"


def test_frozen_names_the_innermost_line_of_the_users_code():
    """A helper of his own; neither the module that calls it nor PyTorch's code around it."""

    def helper(x: Tensor) -> Tensor:
        return x.sort(dim=1).values

    class Nested(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(helper, x, use_reentrant=False)

    model = nn.Sequential(cbr(3, 8), Nested(), cbr(8, 6), Head(6))
    graph = gs.trace(model, image())
    (record,) = (r for r in graph.frozen if r.operator == "aten.sort")
    assert record.source == f"{Path(__file__)}:{helper.__code__.co_firstlineno + 1}"


def test_frozen_passes_over_libraries(tmp_path, monkeypatch):
    """An installed package is passed over, unless the network has modules of it."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "installed_for_a_test.py").write_text(
        "import torch\n\n\ndef ordered(x):\n    return x.sort(dim=1).values\n\n\n"
        "class Ordered(torch.nn.Module):\n    def forward(self, x):\n        return ordered(x)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    library = importlib.import_module("installed_for_a_test")

    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return library.ordered(x)

    here = f"{Path(__file__)}:{Calling.forward.__code__.co_firstlineno + 1}"
    for middle, source in ((Calling(), here), (library.Ordered(), f"{library.__file__}:5")):
        graph = gs.trace(nn.Sequential(cbr(3, 8), middle, cbr(8, 6), Head(6)), image())
        (record,) = (r for r in graph.frozen if r.operator == "aten.sort")
        assert record.source == source


def test_dropout_that_stays_on_is_compared_without():
    """Monte Carlo dropout draws other masks for fewer channels; the cut is right all the same."""

    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout2d(x, 0.5, training=True)

    model = nn.Sequential(cbr(3, 8), Always(), cbr(8, 6), Head(6))
    graph = gs.trace(model, image())
    assert gs.prune(model, graph, half(graph)).drift < 1e-4


def test_contents_of_attributes_are_put_back():
    """A cache that a forward fills, empty or not, holds what it held, in the same object."""

    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache, self.seen, self.shapes = {}, [0], set()

        def forward(self, x: Tensor) -> Tensor:
            self.cache["last"] = x
            self.seen.append(x)
            self.shapes.add(x.shape)
            return x

    model = nn.Sequential(cbr(3, 8), Caching(), cbr(8, 6), Head(6))
    kept = (model[1].cache, model[1].seen, model[1].shapes)
    graph = gs.trace(model, image())
    gs.prune(model, graph, half(graph))
    assert (model[1].cache, model[1].seen, model[1].shapes) == ({}, [0], set())
    assert model[1].cache is kept[0]
    assert model[1].seen is kept[1]


def test_layer_norm_module_that_permutes_around_itself():
    """Its ``normalized_shape`` follows the dimension that it normalises, not its output's last."""

    class ChannelsFirst(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model = nn.Sequential(cbr(3, 8), ChannelsFirst(8), cbr(8, 6), Head(6))
    graph = gs.trace(model, image())
    assert gs.prune(model, graph, half(graph)).drift < 1e-4
    assert model[1].normalized_shape == (len(model[1].weight),)


def test_training_mode_is_traced_only_where_it_is_asked_for():
    """PyTorch's own modules keep their shapes in both modes; the network's own code may not."""

    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if self.training else x

    plain = nn.Sequential(cbr(3, 8), nn.Dropout2d(0.2), nn.Dropout(0.2), cbr(8, 6), Head(6))
    assert not gs.trace(plain, image()).traced_in_training
    asking = nn.Sequential(cbr(3, 8), Asks(), cbr(8, 6), Head(6))
    assert gs.trace(asking, image()).traced_in_training
