"""The command line: thin over the same functions that Python users call."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from gammaslim.channels import TEXT_WIDTH
from gammaslim.errors import GammaslimError

app = typer.Typer(
    help="Make convolutional networks narrower, and prove that nothing else changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the ``gammaslim`` command."""
    app()


def _print_version(asked: bool) -> None:  # noqa: FBT001 -- typer calls it
    if not asked:
        return
    try:
        typer.echo(f"gammaslim {version('gammaslim')}")
    except PackageNotFoundError:
        typer.echo("gammaslim, from a source tree that is not installed")
    raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and leave.",
        ),
    ] = False,
) -> None:
    """Make convolutional networks narrower, and prove that nothing else changed."""
    del show_version  # its callback has done the work


@app.command()
def inspect(
    spec: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, torchvision:NAME, or package.module:callable, which is called "
            "without arguments and returns the network."
        ),
    ],
    *,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Shape of the example input, such as 1,3,224,224 (the default, unless the "
            "model's own configuration says otherwise).",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep the channels of this module or tensor, or of all that fit a pattern such as "
            "'layer4.*'; may be repeated."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Also keep channels that can only go inexactly.")
    ] = False,
    select_inputs: Annotated[
        bool,
        typer.Option(
            "--select-inputs",
            help="Let every BatchNorm that reads a shared stream drop its own channels of it.",
        ),
    ] = False,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Instead show which operators tie two slices: NAME, NAME:DIMENSION or "
            "NAME:DIMENSION:INDEX of a tensor; a module's name stands for its weight.",
        ),
    ] = None,
) -> None:
    """Show which channels of a network may go, which may not, and why."""
    with _errors_as_one_line():
        import gammaslim as gs
        from gammaslim.cli.networks import example_for, load_network, parse_shape, parse_site

        asked = None if shape is None else parse_shape(shape)
        model = load_network(spec)
        graph = gs.trace(
            model,
            example_for(model, asked),
            tuple(ignore or ()),
            exact,
            select_inputs=select_inputs,
        )
        if why is None:
            _console().print(graph)
        else:
            first, second = (parse_site(text, graph.shapes) for text in why)
            _console().print(Text(str(graph.why(first, second))), soft_wrap=True)


@app.command()
def demo(
    *,
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    penalty: Annotated[
        Literal["budget", "lasso"],
        typer.Option(help="Channels go to exactly zero by a budget of MACs, or by a group lasso."),
    ] = "budget",
) -> None:
    """Train two small networks on digits, slim them, and measure what it cost and gained."""
    with _errors_as_one_line():
        from gammaslim.demo.run import Recipe, run_demo

        run_demo(out, seed=seed, console=_console(), recipe=Recipe(penalty=penalty))


def _console() -> Console:
    """As wide as the terminal; a pipe or a file has no width, and gets that of a plain report."""
    return Console(width=None if sys.stdout.isatty() else TEXT_WIDTH)


@contextmanager
def _errors_as_one_line() -> Generator[None]:
    """Print what gammaslim or the file system says as one red line and leave with status 1."""
    try:
        yield
    except (GammaslimError, OSError) as error:
        line = " ".join(str(error).split())
        Console(stderr=True).print(Text(f"error: {line}", style="red"), soft_wrap=True)
        raise typer.Exit(1) from error
