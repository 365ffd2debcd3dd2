"""The command line prints tables, and errors as one line with status 1."""

import importlib
import sys

import pytest
import torch
from typer.testing import CliRunner

from gammaslim.cli.commands import app
from gammaslim.cli.networks import DEFAULT_SHAPE, example_for, load_network, parse_shape
from gammaslim.errors import GammaslimError, MissingExtraError

TINY = """
from torch import nn

def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )

class Holder:
    make = staticmethod(tiny)

def needy(width):
    return tiny()

number = 3

def not_a_network():
    return 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that holds the module ``tinynets``; import paths are put back after."""
    (tmp_path / "tinynets.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("tinynets", None)
    importlib.invalidate_caches()


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def assert_one_line_error(result, *parts):
    """Status 1, nothing on stdout, and one line on stderr that holds ``parts``."""
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("gammaslim")


def test_no_arguments_show_help():
    assert "inspect" in run().output


@pytest.mark.parametrize("spec", ["tinynets:tiny", "tinynets:Holder.make"])
def test_inspect_prints_a_row_per_group(here, spec):
    result = run("inspect", spec, "--input", "1,3,16,16")
    assert result.exit_code == 0, result.output
    assert "8" in result.stdout
    assert "coverage 100.0%" in result.stdout


@pytest.mark.parametrize(
    "asked",
    [("1", "3.weight:1"), ("1.weight:0", "3.weight:1:0"), ("1:0:0", "3.weight:1")],
    ids="-".join,
)
def test_inspect_says_why_two_slices_are_tied(here, asked):
    """The BatchNorm meets the rows of the first convolution, which meet the second's columns."""
    result = run("inspect", "tinynets:tiny", "--input", "1,3,16,16", "--why", *asked)
    assert result.exit_code == 0, result.output
    assert [line.partition(" (")[0] for line in result.stdout.splitlines()] == [
        "1.weight[0]",
        "  aten.native_batch_norm in 1",
        "0.weight[0]",
        "  aten.convolution in 3",
        "3.weight[:, 0]",
    ]


@pytest.mark.parametrize(
    ("asked", "words"),
    [("1:x", "Write NAME, NAME:DIMENSION or"), ("9", "no tensor '9'"), ("1:0:8", "has 8 indices")],
)
def test_inspect_asked_why_of_what_is_not_there(here, asked, words):
    result = run("inspect", "tinynets:tiny", "--input", "1,3,16,16", "--why", asked, "0")
    assert_one_line_error(result, words)


def test_inspect_ignores(here):
    result = run("inspect", "tinynets:tiny", "--input", "2,3,16,16", "--ignore", "1")
    assert result.exit_code == 0, result.output
    assert "coverage 0.0%" in result.stdout


def test_inspect_selects_inputs(here):
    result = run("inspect", "tinynets:tiny", "--input", "2,3,16,16", "--select-inputs")
    assert result.exit_code == 0
    assert "coverage" in result.output


def test_inspect_reports_a_wrong_input(here):
    result = run("inspect", "tinynets:tiny", "--input", "1,5,16,16")
    assert_one_line_error(result)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("resnet50", ["timm:resnet50, torchvision:resnet18, or package.module:callable"]),
        ("timm:", ["'timm:' was asked for"]),
        ("nowhere:net", ["'nowhere' cannot be imported", "ModuleNotFoundError"]),
        ("tinynets:absent", ["has no 'absent'"]),
        ("tinynets:number", ["is a int, which cannot be called"]),
        ("tinynets:needy", ["called without arguments and raised TypeError", "'width'"]),
        ("tinynets:not_a_network", ["should give a torch.nn.Module; it gave int"]),
        ("timm:resnet_eighteen", ["timm cannot make 'resnet_eighteen'"]),
        ("torchvision:resnet_eighteen", ["torchvision cannot make 'resnet_eighteen'"]),
    ],
)
def test_bad_specs(here, spec, parts):
    if spec.startswith(("timm:r", "torchvision:r")):
        pytest.importorskip(spec.partition(":")[0])  # now, so that it says nothing below
    assert_one_line_error(run("inspect", spec), *parts)


@pytest.mark.parametrize("text", ["", "1,a", "1,,3", "0,3,8,8", "-1,3", "1.5"])
def test_bad_shapes(here, text):
    result = run("inspect", "tinynets:tiny", "--input", text)
    assert_one_line_error(result, f"--input {text!r}", "such as 1,3,224,224")


@pytest.mark.parametrize("text", ["1,3,32,48", "1x3x32x48", "1, 3, 32, 48"])
def test_shapes(text):
    assert parse_shape(text) == (1, 3, 32, 48)


def test_example_has_the_models_own_size():
    model = torch.nn.Module()
    assert example_for(model, None).shape == DEFAULT_SHAPE
    model.pretrained_cfg = {"input_size": (3, 160, 160)}
    assert example_for(model, None).shape == (1, 3, 160, 160)
    assert example_for(model, (2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_example_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    example_for(torch.nn.Module(), (1, 1, 2, 2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("error", [ImportError("no such wheel"), RuntimeError("torchvision::nms")])
def test_broken_library_is_named(monkeypatch, error):
    """A CUDA torchvision beside a CPU torch raises RuntimeError, not ImportError."""

    def broken(name):
        del name
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(MissingExtraError, match=r"gammaslim\[train\]") as caught:
        load_network("timm:resnet18")
    assert f"{type(error).__name__}: {error}" in str(caught.value)


def test_load_network_refuses_with_its_own_error():
    with pytest.raises(GammaslimError):
        load_network("nothing")


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18"])
def test_inspect_of_a_library_network(spec):
    """ResNet-18: all 4,800 scales may go; 1.81 G MACs at 224x224, 11.69 M parameters."""
    pytest.importorskip(spec.partition(":")[0])
    result = run("inspect", spec)
    assert result.exit_code == 0, result.output
    assert "coverage 100.0%" in result.stdout
    assert "1.81 G MACs" in result.stdout
    assert "11.69 M parameters" in result.stdout


def test_demo_into_a_file(tmp_path):
    target = tmp_path / "taken"
    target.write_text("mine")
    assert_one_line_error(run("demo", "--out", str(target)), "there is a file of that name")
    assert target.read_text() == "mine"
