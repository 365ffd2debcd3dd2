"""The shape of the package: public names, one-way imports, no optional extra, short files."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import gammaslim
from bench import structure

ROOT = Path(gammaslim.__file__).parent
MODULES = structure.read(ROOT)
IMPORTS = structure.imports(MODULES)

LAYERS = (
    {"errors"},
    {"arrays", "schedules"},
    {"channels"},
    {"labels", "network"},
    {"recording", "selecting", "cutting"},
    {"rules", "penalties", "latency", "files"},
    {"training", "tracing"},
    {"report"},
    {"integrations", "demo", "cli"},
)
"""Lowest first: a file imports from its own layer and those before it, also inside functions."""

NO_MORE_THAN = {
    "largest_folder": 16,
    "longest_chain": 13,
    "in_cycles": 0,
    "graph_and_keep": 1,
    "called_once": 0.12,
}
"""Figures of the whole, as low as they have come: lower them when they fall, never raise them."""

LONGEST, LONGEST_EXPLAINED = 40, 60
"""Lines of code under which a function stays, and one that a comment of five lines explains."""

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


def room_of(name: str) -> str:
    """The first name below ``gammaslim``; empty for the package itself."""
    return [*name.split("."), ""][1]


def layer_of(name: str) -> int:
    """The layer of a module's room: the package itself and its root stand above all."""
    room = room_of(name)
    found = [index for index, rooms in enumerate(LAYERS) if room in rooms]
    return found[0] if found else len(LAYERS)


def name_of(module: structure.Module) -> str:
    return module.name


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


def test_every_room_has_a_layer():
    rooms = {room_of(module.name) for module in MODULES} - {""}
    assert rooms == set().union(*LAYERS), "LAYERS and ARCHITECTURE.md name every room, and no other"


def test_imports_go_one_way():
    """Imports in functions and for types are imports; users above it import the package itself."""
    upward = {
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if layer_of(other) > layer_of(name) and layer_of(name) < len(LAYERS) - 1
    }
    assert not upward


def test_rooms_are_entered_by_their_door():
    """What one package uses of another stands in that one's ``__init__``."""
    users = {"cli", "demo", "integrations", "report"}
    for module in MODULES:
        room = room_of(module.name)
        for node in ast.walk(module.tree):
            path = str(node.module).split(".") if isinstance(node, ast.ImportFrom) else []
            if path[:1] == ["gammaslim"] and len(path) > 2:
                assert path[1] in {room, *users}, f"{module.name} imports {node.module}"


def test_packages_of_a_level_do_not_know_each_other():
    known = {(room_of(a), room_of(b)) for a, others in IMPORTS.items() for b in others}
    level = {room: layer_of(f"gammaslim.{room}") for pair in known for room in pair if room}
    beside = {(a, b) for a, b in known if a and b and a != b and level[a] == level[b]}
    assert beside <= {("cli", "demo")}


def test_architecture_names_every_room():
    page = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for module in MODULES:
        if module.path.name != "__init__.py":
            assert f"`{module.path.name}`" in page, f"ARCHITECTURE.md does not name {module.name}"


def test_imports_are_absolute():
    for module in MODULES:
        for node in ast.walk(module.tree):
            assert not (isinstance(node, ast.ImportFrom) and node.level), module.name


def test_figures_only_get_better():
    found = asdict(structure.Figures.of(MODULES))
    worse = {key: found[key] for key, most in NO_MORE_THAN.items() if found[key] > most}
    assert not worse, f"{worse} where no more than {NO_MORE_THAN} is allowed"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_files_are_short(module):
    assert len(module.text.splitlines()) < 400


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_functions_are_short(module):
    """Neither a docstring nor a comment is code."""
    for function in module.functions:
        length = structure.length(function, module)
        most = LONGEST_EXPLAINED if structure.explained(function, module) else LONGEST
        assert length < most, f"{function.name} has {length} lines of code"


def test_typed_marker_is_shipped():
    assert (ROOT / "py.typed").exists()


MADE_UP = {
    "a": "from p import b\n\ndef f(graph, keep):\n    from p.c import x\n    return _once(x)\n",
    "b": "if T:\n    from p.a import f\n\ndef _once(x: ChannelGraph, y: BoolArray): ...\n",
    "c": "# Why.\nimport p.d  # not this\nclass ChannelGraph:\n    def cost(self, keep): ...\n",
    "d": "def _own(): ...\n_own()\n",
    "__init__": "from p.c import x\n",
}


@pytest.fixture
def made_up(tmp_path):
    (tmp_path / "p").mkdir()
    for name, text in MADE_UP.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    return structure.read(tmp_path / "p")


def test_imports_are_found_wherever_they_stand(made_up):
    found = structure.imports(made_up)
    assert found == {
        "p": {"p.c"}, "p.a": {"p.b", "p.c"}, "p.b": {"p.a"}, "p.c": {"p.d"}, "p.d": set(),
    }  # fmt: skip
    assert structure.cycles(found) == [["p.a", "p.b"]]
    assert structure.longest_chain(found, "p") == ["p", "p.c", "p.d"]


def test_figures_of_a_made_up_package(made_up):
    assert structure.graph_and_keep(made_up) == ["p.a.f", "p.b._once", "p.c.cost"]
    assert structure.called_once(made_up) == ["p.d._own"]
    figures = structure.Figures.of(made_up)
    assert (figures.largest_folder, figures.in_cycles, figures.called_once) == (5, 2, 0.25)
    assert figures.comments == pytest.approx(1 / 16)
    assert "| p | 5 | 3 | 2 | 3 | 25.0% |" in structure.table(made_up)


def test_a_comment_of_five_lines_explains(tmp_path):
    (tmp_path / "m.py").write_text("# a\n# b\n# c\n# d\n# e\ndef f():\n    # g\n    pass\n")
    (module,) = structure.read(tmp_path)
    (function,) = module.functions
    assert structure.explained(function, module)
    assert structure.length(function, module) == 1
