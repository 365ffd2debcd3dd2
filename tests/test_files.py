"""Saving and loading: bit for bit, or refused with the network untouched."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import gammaslim as gs
from bench import oracle
from tests.data.nets import Shuffled
from tests.nets.case import Head, cbr, image


class Net(nn.Module):
    """A stem, a depthwise block, grouped channels, a LayerNorm: every kind of size attribute."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem = cbr(3, width, stride=2)
        self.depthwise = cbr(width, width, groups=width)
        self.wide = cbr(width, 12, 1)
        self.grouped = cbr(12, 12, groups=6)
        self.norm = nn.LayerNorm(12)
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.wide(self.depthwise(self.stem(x))))
        return self.head(self.norm(x.movedim(1, -1)).movedim(-1, 1))


class Tied(nn.Module):
    """Two names for one convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = cbr(3, 8, stride=4), cbr(8, 8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1, bias=False), Head(8)
        self.second.weight = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.second(self.first(x)))


class Masked(nn.Module):
    """A buffer per channel that the state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = cbr(3, 8, stride=4), Head(8)
        self.register_buffer("gain", torch.linspace(1, 2, 8).view(8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x) * self.gain)


class Counting(Net):
    """Extra state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


class Versioned(Net):
    """Its state has a version, at which its code looks when it is loaded, as MNASNet does."""

    _version = 3

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        self.seen = metadata["version"]
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def cut(model: nn.Module, seed: int = 0, remove: float = 0.3) -> gs.Plan:
    """Remove a random share of the channels."""
    graph = gs.trace(model, image())
    plan = gs.select(graph, oracle.random_scores(graph, seed), remove_channels=remove)
    gs.prune(model, graph, plan)
    return plan


def slim(make=Net, seed: int = 0) -> nn.Module:
    """A cut network with lively BatchNorms."""
    torch.manual_seed(seed)
    model = make()
    oracle.randomise_batchnorms(model, seed)
    cut(model, seed)
    return model


def check_same(one: nn.Module, other: nn.Module) -> None:
    """Tensors, outputs and the modules' numbers are equal, bit for bit."""
    left, right = oracle.named_tensors(one), oracle.named_tensors(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    for a, b in zip(oracle.outputs(one, image()), oracle.outputs(other, image()), strict=True):
        assert torch.equal(a, b)
    assert repr(one) == repr(other)
    oracle.check_attributes(other)


def saved(tmp_path: Path, model: nn.Module | None = None) -> Path:
    """A file of a cut network."""
    path = tmp_path / "slim.safetensors"
    gs.save(slim() if model is None else model, path)
    return path


# Round trips


def test_round_trip(tmp_path):
    """A fresh network becomes the saved one; ``load`` returns it."""
    model, fresh = slim(), Net()
    gs.save(model, tmp_path / "slim.safetensors")
    assert gs.load(fresh, tmp_path / "slim.safetensors") is fresh
    check_same(model, fresh)


def test_path_as_text(tmp_path):
    """A path may be a string."""
    model = slim()
    gs.save(model, str(tmp_path / "slim.safetensors"))
    check_same(model, gs.load(Net(), str(tmp_path / "slim.safetensors")))


def test_parameters_of_the_fresh_network_keep_their_identity(tmp_path):
    """An optimizer that was made first still owns them."""
    fresh = Net()
    before = {name: id(tensor) for name, tensor in fresh.named_parameters()}
    gs.load(fresh, saved(tmp_path))
    assert before == {name: id(tensor) for name, tensor in fresh.named_parameters()}


def test_loading_remembers_the_plan(tmp_path):
    """What was loaded can be saved again, and the files are equal."""
    first, second = saved(tmp_path), tmp_path / "again.safetensors"
    gs.save(gs.load(Net(), first), second)
    check_same(gs.load(Net(), first), gs.load(Net(), second))
    with safe_open(first, "pt") as one, safe_open(second, "pt") as other:
        assert one.metadata() == other.metadata()


def test_cut_save_load_cut_save_load(tmp_path):
    """Two cuts with a file between them; the second file cuts a fresh network in one go."""
    model = gs.load(Net(), saved(tmp_path))
    cut(model, seed=5)
    gs.save(model, tmp_path / "twice.safetensors")
    check_same(model, gs.load(Net(), tmp_path / "twice.safetensors"))


def test_two_cuts_without_a_file_between(tmp_path):
    """Both plans are remembered as one."""
    model = slim()
    cut(model, seed=5)
    check_same(model, gs.load(Net(), saved(tmp_path, model)))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    """The second name is restored from the first."""
    model, fresh = slim(Tied), Tied()
    path = saved(tmp_path, model)
    with safe_open(path, "pt") as file:
        stored = set(file.keys())
    assert len(stored & {"first.0.weight", "second.weight"}) == 1
    gs.load(fresh, path)
    assert fresh.second.weight is fresh.first[0].weight
    check_same(model, fresh)


def test_network_that_was_never_cut(tmp_path):
    """An empty plan: plain weights with a checksum."""
    model = Net()
    check_same(model, gs.load(Net(), saved(tmp_path, model)))


def test_submodule_cut_on_its_own(tmp_path):
    """Its plan is remembered where it was made and saved under its full names."""
    torch.manual_seed(0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Identity(), Net())

    outer = build()
    cut(outer[1])
    check_same(outer, gs.load(build(), saved(tmp_path, outer)))


def test_submodule_and_then_the_whole(tmp_path):
    """Cuts of both are one plan."""
    torch.manual_seed(0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Identity(), Net())

    outer = build()
    cut(outer[1])
    cut(outer, seed=4)
    check_same(outer, gs.load(build(), saved(tmp_path, outer)))


def test_whole_and_then_a_submodule(tmp_path):
    """The other way round."""
    torch.manual_seed(0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Identity(), Net())

    outer = build()
    cut(outer)
    cut(outer[1], seed=4)
    check_same(outer, gs.load(build(), saved(tmp_path, outer)))


def test_buffers_that_are_not_saved_are_cut_on_loading(tmp_path):
    """They have no bytes in the file, but the plan names them."""
    model, fresh = slim(Masked), Masked()
    path = saved(tmp_path, model)
    with safe_open(path, "pt") as file:
        assert "gain" not in set(file.keys())
    gs.load(fresh, path)
    assert len(fresh.gain) < 8
    check_same(model, fresh)


def test_versions_of_states_are_kept(tmp_path, monkeypatch):
    """Also where the class has a newer one meanwhile."""
    model = slim(Versioned)
    path = saved(tmp_path, model)
    fresh = gs.load(Versioned(), path)
    check_same(model, fresh)
    assert fresh.seen == 3
    monkeypatch.setattr(Versioned, "_version", 4)
    assert gs.load(Versioned(), path).seen == 3


def test_a_file_without_versions_is_taken_for_the_present_one(tmp_path):
    """Files of before."""
    path = saved(tmp_path, slim(Versioned))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["state_versions"]
    save_file(tensors, path, metadata)
    assert gs.load(Versioned(), path).seen == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(tmp_path, dtype):
    """Types are kept."""
    model = slim().to(dtype)
    fresh = gs.load(Net().to(dtype), saved(tmp_path, model))
    for name, tensor in oracle.named_tensors(model).items():
        assert torch.equal(tensor, oracle.named_tensors(fresh)[name])


def test_load_onto_the_meta_device(tmp_path):
    """A network without memory gets the file's tensors."""
    model = slim()
    with torch.device("meta"):
        fresh = Net()
    gs.load(fresh, saved(tmp_path, model))
    check_same(model, fresh)


def test_a_copy_and_a_pickle_of_a_cut_network_remember(tmp_path):
    """The plan travels with the module."""
    model = slim()
    check_same(model, gs.load(Net(), saved(tmp_path, copy.deepcopy(model))))
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    check_same(model, gs.load(Net(), saved(tmp_path, again)))


def test_channels_last_network(tmp_path):
    """Memory formats differ; values do not."""
    model = slim().to(memory_format=torch.channels_last)
    check_same(model, gs.load(Net(), saved(tmp_path, model)))


# Refusals


def check_refused(model: nn.Module, path: object, *words: str) -> None:
    """``load`` raises with these words and leaves the network exactly as it was."""
    before = oracle.snapshot(model)
    with pytest.raises(gs.FileFormatError) as caught:
        gs.load(model, path)
    assert oracle.snapshot(model) == before
    for word in (*words, str(path)):
        assert word in str(caught.value)


def test_no_such_file(tmp_path):
    """The path is in the text."""
    check_refused(Net(), tmp_path / "absent.safetensors", "There is no file")


def test_a_folder_is_no_file(tmp_path):
    """A folder is refused like anything unreadable."""
    check_refused(Net(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"{}", b"\xff" * 64])
def test_not_safetensors(tmp_path, content):
    """Other bytes, none at all included."""
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    check_refused(Net(), path, "truncated or no safetensors file")


def test_torch_checkpoint(tmp_path):
    """A pickle is never opened."""
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    check_refused(Net(), tmp_path / "net.pt", "no safetensors file")


def test_safetensors_by_somebody_else(tmp_path):
    """Plain weights have no plan."""
    path = tmp_path / "plain.safetensors"
    save_file(Net().state_dict(), path)
    check_refused(Net(), path, "gammaslim.save did not write it", "load_state_dict")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.7, 0.999])
def test_truncated(tmp_path, share):
    """Any length short of all."""
    path = saved(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * share))])
    check_refused(Net(), path, "truncated")


def test_one_byte_short(tmp_path):
    """The last byte is missed."""
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    check_refused(Net(), path, "truncated")


@pytest.mark.parametrize("place", [-1, -500, -2000])
def test_one_byte_altered(tmp_path, place):
    """The checksum sees it."""
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    check_refused(Net(), path, "has been altered", "checksum")


def rewrite(path: Path, **changes: str) -> None:
    """The same tensors with other metadata."""
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **changes}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)


def test_unknown_version(tmp_path):
    """A newer format is refused with what to do."""
    path = saved(tmp_path)
    rewrite(path, version="99")
    check_refused(Net(), path, "format version '99'", "Install the gammaslim that wrote it")


@pytest.mark.parametrize("plan", ["no json", "{}", '{"gammaslim_plan":7}', "[]", "null"])
def test_unreadable_plan(tmp_path, monkeypatch, plan):
    """Metadata that is no plan, under a checksum that is right."""
    model = slim()
    monkeypatch.setattr(gs.Plan, "to_json", lambda _: plan)
    path = saved(tmp_path, model)
    check_refused(Net(), path, "holds no readable plan")


def test_altered_plan(tmp_path):
    """Other kept indices of the same number fit all shapes, and mean another network."""
    path = saved(tmp_path, slim(Masked))
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["plan"])
    for site in record["sites"]:
        site["kept"] = [8 - 1 - index for index in reversed(site["kept"])]
    rewrite(path, plan=json.dumps(record))
    check_refused(Masked(), path, "has been altered")


def test_other_width(tmp_path):
    """The first site that does not fit is named."""
    check_refused(Net(10), saved(tmp_path), "another architecture", "had size 8", "here: [10")


def test_other_names(tmp_path):
    """A network of other modules."""
    other = nn.Sequential(cbr(3, 8), Head(8))
    check_refused(other, saved(tmp_path), "another architecture", "no such tensor")


def test_other_names_where_nothing_was_cut(tmp_path):
    """Without a plan, names and shapes are compared all the same."""
    check_refused(Net(10), saved(tmp_path, Net()), "another architecture", "in the file")


def test_network_that_has_already_been_cut(tmp_path):
    """A file is for the network as it was built."""
    path = saved(tmp_path)
    check_refused(slim(), path, "has already been cut", "fresh")


def test_extra_state_that_is_no_tensor(tmp_path):
    """It cannot be written; nothing is."""
    model = slim(Counting)
    with pytest.raises(gs.FileFormatError, match=r"_extra_state.*is a dict, not a tensor"):
        gs.save(model, tmp_path / "slim.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_does_not_exist(tmp_path):
    """The text says what path to give."""
    with pytest.raises(gs.FileFormatError, match="cannot be written"):
        gs.save(slim(), tmp_path / "absent" / "slim.safetensors")


# Whole or not at all


@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "chmod")], ids=str
)
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_writer_that_dies_leaves_the_old_file(tmp_path, monkeypatch, owner, name, error):
    """Byte for byte, and nothing beside it."""
    path = saved(tmp_path)
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(owner, name, fail)
    expected = gs.FileFormatError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        gs.save(slim(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_replaces_the_whole_file(tmp_path):
    """The second network is what is read, and nothing is left beside it."""
    path = saved(tmp_path)
    other = slim(seed=1)
    gs.save(other, path)
    check_same(other, gs.load(Net(), path))
    assert list(tmp_path.iterdir()) == [path]


def test_file_has_ordinary_permissions(tmp_path):
    """Those that any new file would have here."""
    plain = tmp_path / "plain"
    plain.touch()
    assert saved(tmp_path).stat().st_mode == plain.stat().st_mode


def test_a_failure_while_loading_restores(tmp_path, monkeypatch):
    """Cut, then interrupted: the network is whole again."""
    path, model = saved(tmp_path), Net()
    before = oracle.snapshot(model)

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.Module, "load_state_dict", fail)
    with pytest.raises(KeyboardInterrupt):
        gs.load(model, path)
    assert {k: v for k, v in oracle.snapshot(model).items() if k != "rng"} == {
        k: v for k, v in before.items() if k != "rng"
    }


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    """Not on loading a good file, and not on refusing a pickle."""
    path = saved(tmp_path)
    torch.save(Net().state_dict(), tmp_path / "net.pt")

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was unpickled")

    for owner, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    gs.load(Net(), path)
    with pytest.raises(gs.FileFormatError):
        gs.load(Net(), tmp_path / "net.pt")


# Files of earlier versions

DATA = Path(__file__).parent / "data"
EARLIER = "before_packages"
"""Written before the rooms of the library moved into packages: branch, shuffle and width cut."""


def test_a_file_of_an_earlier_version_loads():
    """The outputs are those that the network had when it was saved."""
    model = gs.load(Shuffled(), DATA / f"{EARLIER}.safetensors").eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([[-0.4529, -0.0923], [-0.4532, -0.0919]])
    with torch.no_grad():
        assert torch.allclose(model(x), expected, atol=1e-4)


def test_a_plan_of_an_earlier_version_is_read_and_written_alike():
    text = (DATA / f"{EARLIER}.plan.json").read_text(encoding="utf-8")
    plan = gs.Plan.from_json(text)
    assert plan.remnants
    assert plan.orders
    assert plan.to_json() == text
    gs.prune(Shuffled(), gs.trace(Shuffled(), torch.zeros(2, 3, 8, 8)), plan, verify=False)


@pytest.mark.parametrize(
    "text",
    [
        (
            '{"gammaslim_plan":1,"sites":[{"tensor":"a.weight","dim":0,"size":4,"kept":[0,3]}],'
            '"attributes":{"a.out_channels":2}}'
        ),
        (
            '{"gammaslim_plan":2,"sites":[{"tensor":"a.weight","dim":0,"size":4,"kept":[0,3],'
            '"order":[1,0]}],"attributes":{"n.normalized_shape":[2,8]}}'
        ),
    ],
)
def test_plans_of_the_first_versions_are_read(text):
    plan = gs.Plan.from_json(text)
    assert plan.kept[("a.weight", 0)].tolist() == [0, 3]
    assert plan.sizes == {("a.weight", 0): 4}
