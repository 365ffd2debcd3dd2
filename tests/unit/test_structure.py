"""The shape of the package: public names, one-way imports, no optional extra, small files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gammaslim

ROOT = Path(gammaslim.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = (
    {"errors", "arrays"},
    {"channels"},
    {"labels", "network", "penalties"},
    {"recording", "selecting", "cutting"},
    {"rules", "training", "latency", "files"},
    {"tracing"},
    {"report"},
    {"integrations", "demo", "cli"},
)
"""Lowest first: a file imports from its own layer and those before it."""

EXTRAS = (
    "matplotlib",
    "sklearn",
    "timm",
    "torchvision",
    "lightning",
    "jinja2",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorboard",
    "transformers",
    "accelerate",
    "ultralytics",
)

PUBLIC = [
    "L1",
    "ChannelGraph",
    "Cost",
    "GammaslimError",
    "GroupLasso",
    "Outcome",
    "Plan",
    "attach",
    "load",
    "prune",
    "rule",
    "save",
    "scores",
    "select",
    "trace",
]


def room_of(path):
    """The first name below ``gammaslim``: ``rules/norms.py`` lives in ``rules``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def layer_of(room):
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


def imports_of(path):
    """Rooms of gammaslim that a file imports when it is imported itself."""
    rooms = set()
    waiting = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            parts = (node.module or "").split(".")
            if parts == ["gammaslim"]:
                rooms |= {alias.name for alias in node.names}
            elif parts[0] == "gammaslim":
                rooms.add(parts[1])
        elif isinstance(node, ast.Import):
            split = [alias.name.split(".") for alias in node.names]
            rooms |= {parts[1] for parts in split if parts[0] == "gammaslim" and len(parts) > 1}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With):
            waiting += ast.iter_child_nodes(node)
    return rooms


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def test_public_names_are_sorted():
    assert sorted(gammaslim.__all__) == sorted(set(gammaslim.__all__))
    assert set(gammaslim.__all__) >= set(PUBLIC)
    for name in gammaslim.__all__:
        assert hasattr(gammaslim, name)


def test_import_brings_no_optional_extra():
    code = f"import sys, gammaslim\nprint([m for m in {EXTRAS!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path):
    room = room_of(path)
    if room == "__init__":
        return
    known = set().union(*LAYERS)
    assert room in known, f"{room} has no layer: add it to LAYERS and ARCHITECTURE.md"
    for other in imports_of(path) & known:
        assert layer_of(other) <= layer_of(room), f"{room} must not import {other}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short(path):
    """Under 40 lines of code, which a docstring is not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].lineno
            if ast.get_docstring(node) is not None:
                start = node.body[0].end_lineno + 1
            length = node.end_lineno + 1 - start
            assert length < 40, f"{node.name} has {length} lines"


def test_typed_marker_is_shipped():
    assert (ROOT / "py.typed").exists()
