"""The shape of the source in figures, by Python's ``ast``: ``python -m bench.structure``.

Counted is what the package holds; tests and benchmarks are not part of it.  Imports inside
functions and under ``TYPE_CHECKING`` count like all others.  ``from gammaslim.rules import norms``
imports the module ``gammaslim.rules.norms``; a name that a package's ``__init__`` only passes on is
imported from the module that it comes from, and one that is made there from the ``__init__``.
Chains begin at the package's own ``__init__``: users of its public functions (the command line, the
demo, callbacks for trainers) lengthen none.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = Mapping[str, Collection[str]]
"""Which modules each module imports."""

WORKED_EXAMPLE = 5
"""Lines of comment from which on a function counts as explained."""
MARKS = ("# noqa", "# pyright:", "# type:", "# fmt:", "# pragma:")
"""Comments that speak to tools, not to readers."""


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, and what it says."""

    name: str
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Parsed."""
        return ast.parse(self.text)

    @cached_property
    def comments(self) -> frozenset[int]:
        """Numbers of the lines that hold a comment for readers and nothing else."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return frozenset(
            token.start[0]
            for token in tokens
            if token.type == tokenize.COMMENT
            and token.line.lstrip().startswith("#")
            and not token.string.startswith(MARKS)
        )

    @property
    def package(self) -> str:
        """The name of the folder it lies in."""
        return self.path.parent.name

    @property
    def functions(self) -> Iterator[Function]:
        """All of them: methods and functions inside functions too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


def read(root: Path) -> list[Module]:
    """Every module of the package that lies in the folder ``root``."""
    found: list[Module] = []
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        name = ".".join(parts).removesuffix(".__init__")
        found.append(Module(name, path, path.read_text(encoding="utf-8")))
    return found


def files_per_folder(modules: Collection[Module]) -> Counter[str]:
    """How many files, ``__init__.py`` among them, lie in each folder."""
    return Counter(str(module.path.parent) for module in modules)


def imports(modules: Collection[Module]) -> dict[str, set[str]]:
    """Which modules of the package each of them imports, wherever the import stands."""
    names = {module.name for module in modules}
    passed_on = {module.name: _origins(module) for module in modules}

    def imported(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = str(node.module)
            for alias in node.names:
                inner = f"{package}.{alias.name}"
                origin = passed_on.get(package, {}).get(alias.name, package)
                yield inner if inner in names else origin

    return {
        module.name: {
            name
            for node in ast.walk(module.tree)
            for name in imported(node)
            if name in names and name != module.name
        }
        for module in modules
    }


def _origins(module: Module) -> dict[str, str]:
    """Of an ``__init__``: the names that it passes on, each with the module it takes it from."""
    if module.path.name != "__init__.py":
        return {}
    return {
        alias.asname or alias.name: node.module
        for node in module.tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def cycles(graph: Graph) -> list[list[str]]:
    """Modules that import each other, however far around: strongly connected components."""
    reached = {name: _reached(graph, name) for name in graph}
    together = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(names) for names in sorted(together)]


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def longest_chain(graph: Graph, root: str = "gammaslim") -> list[str]:
    """The longest sequence of modules of which each imports the next; a cycle is passed once.

    Where ``root`` is among the modules, only what it brings with it counts.
    """
    in_cycle = {name: tuple(names) for names in cycles(graph) for name in names}
    known: dict[tuple[str, ...], list[str]] = {}

    def chain(node: tuple[str, ...]) -> list[str]:
        if node not in known:
            following = {in_cycle.get(n, (n,)) for name in node for n in graph[name]} - {node}
            known[node] = [node[0], *max(map(chain, sorted(following)), key=len, default=[])]
        return known[node]

    starts = [root] if root in graph else sorted(graph)
    return max((chain(in_cycle.get(name, (name,))) for name in starts), key=len, default=[])


def graph_and_keep(modules: Collection[Module]) -> list[str]:
    """Functions that take both a graph and a mask of kept channels, methods of the graph included.

    A parameter is a graph or a mask by its name (``graph``, ``keep``) or by its annotation
    (``ChannelGraph``, ``BoolArray``).
    """
    found: list[str] = []
    for module in modules:
        methods = {
            id(method)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef) and node.name == "ChannelGraph"
            for method in node.body
        }
        for function in module.functions:
            parameters = [
                *function.args.posonlyargs,
                *function.args.args,
                *function.args.kwonlyargs,
            ]
            kinds = {
                word
                for each in parameters
                for word in (each.arg, ast.unparse(each.annotation) if each.annotation else "")
            }
            graph = id(function) in methods or kinds & {"graph", "ChannelGraph"}
            if graph and kinds & {"keep", "BoolArray"}:
                found.append(f"{module.name}.{function.name}")
    return found


def called_once(modules: Collection[Module]) -> list[str]:
    """Private functions and methods whose name their own file uses exactly once."""
    found: list[str] = []
    for module in modules:
        uses = Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute)
            or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        )
        found += [
            f"{module.name}.{function.name}"
            for function in module.functions
            if function.name.startswith("_")
            and not function.name.startswith("__")
            and uses[function.name] == 1
        ]
    return found


def length(function: Function, module: Module) -> int:
    """Lines of code: neither the signature, nor the docstring, nor comments."""
    start = function.body[0].lineno
    if ast.get_docstring(function) is not None:
        start = (function.body[0].end_lineno or 0) + 1
    lines = set(range(start, (function.end_lineno or 0) + 1))
    return len(lines - module.comments)


def explained(function: Function, module: Module) -> bool:
    """Whether a comment of several lines stands in it or right above it."""
    above = min([function.lineno, *(each.lineno for each in function.decorator_list)]) - 1
    while above in module.comments:
        above -= 1
    run = most = 0
    for line in range(above, (function.end_lineno or 0) + 1):
        run = run + 1 if line in module.comments else 0
        most = max(most, run)
    return most >= WORKED_EXAMPLE


@dataclass(frozen=True)
class Figures:
    """What is counted of some modules; shares are between 0 and 1."""

    largest_folder: int
    longest_chain: int
    in_cycles: int
    graph_and_keep: int
    called_once: float
    comments: float
    longest_function: int

    @classmethod
    def of(cls, modules: Collection[Module]) -> Figures:
        """Of these modules; imports from elsewhere do not count."""
        graph = imports(modules)
        functions = [length(f, module) for module in modules for f in module.functions]
        lines = sum(len(module.text.splitlines()) for module in modules)
        return cls(
            largest_folder=max(files_per_folder(modules).values()),
            longest_chain=len(longest_chain(graph)),
            in_cycles=sum(len(names) for names in cycles(graph)),
            graph_and_keep=len(graph_and_keep(modules)),
            called_once=len(called_once(modules)) / max(len(functions), 1),
            comments=sum(len(module.comments) for module in modules) / lines,
            longest_function=max(functions, default=0),
        )


COLUMNS = {
    "largest_folder": "files in the largest folder",
    "longest_chain": "longest chain of imports",
    "in_cycles": "modules in cycles",
    "graph_and_keep": "functions of graph and keep",
    "called_once": "private helpers called once",
    "comments": "lines of comment",
    "longest_function": "longest function",
}


def table(modules: Collection[Module]) -> str:
    """The figures of each package, then of the whole.

    Files count with ``__init__.py``; shares are of all functions and of all lines; a function's
    length is that of its code.
    """
    packages: dict[str, list[Module]] = {}
    for module in modules:
        packages.setdefault(module.package, []).append(module)
    rows = [["package", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for name, members in [*packages.items(), ("all", modules)]:
        figures = Figures.of(members)
        values = [getattr(figures, field) for field in COLUMNS]
        rows.append([name, *(f"{v:.1%}" if isinstance(v, float) else str(v) for v in values)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Print the table, then what stands behind its last row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path("src/gammaslim"))
    modules = read(parser.parse_args().root)
    graph = imports(modules)
    print(table(modules))
    print("\nlongest chain:", " > ".join(longest_chain(graph)))
    for names in cycles(graph):
        print("cycle:", ", ".join(names))
    print("graph and keep:", *graph_and_keep(modules), sep="\n  ")


if __name__ == "__main__":
    main()
