"""Pictures for a file; matplotlib is an optional extra and is imported only here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gammaslim.errors import GammaslimError, MissingExtraError

_REMOVED, _REST, _KEPT, _AFTER, _INK = "#f1eee9", "#b9b2a7", "#8fb8de", "#b5301f", "#333333"
_MAX_COLUMNS = 6
_PANEL = (2.15, 1.55)
"""Width and height of one panel, in inches."""


def scales_picture(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike], path: str | Path
) -> None:
    r"""Draw the sorted \|γ\| of every BatchNorm layer, before and after a cut, into ``path``.

    One panel per layer, each with its own vertical axis.  The bars are the scales before the cut,
    largest first; the line is the layer's scales after it.  The shaded part is what the layer lost:
    bars that stand there were not zero when they went.  The format follows the suffix of ``path``.

    Args:
        before: scales by layer name; any shape, flattened.
        after: scales by the same names; a name that is missing counts as a layer without channels.
        path: the file to write, replaced as a whole.

    Raises:
        GammaslimError: ``before`` is empty, or ``after`` names a layer that ``before`` lacks.
        MissingExtraError: matplotlib is not installed.
    """
    if not before:
        raise GammaslimError(
            "A picture of scales was asked for, but no layer was given. Pass the BatchNorm scales "
            "by layer name."
        )
    if unknown := sorted(set(after) - set(before)):
        raise GammaslimError(
            f"The scales after the cut name layers that are not among those before it: {unknown}. "
            "Pass both under the same names."
        )
    layers = [(name, _sorted(before[name]), _sorted(after.get(name, ()))) for name in before]
    figure_class, patch, line = _matplotlib()
    columns = min(_MAX_COLUMNS, max(3, math.ceil(math.sqrt(1.5 * len(layers)))), len(layers))
    rows = math.ceil(len(layers) / columns)
    size = max(7.0, columns * _PANEL[0]), rows * _PANEL[1] + 1.15
    figure = figure_class(figsize=size, facecolor="white")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if index < len(layers):
            _panel(axes, *layers[index])
        else:
            axes.set_visible(False)
    _dress(figure, layers, (patch, line), size)
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        figure.savefig(partial, dpi=150)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sorted(values: ArrayLike) -> NDArray[np.float64]:
    return -np.sort(-np.abs(np.asarray(values, dtype=np.float64)).ravel())


def _panel(axes: Any, name: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    ranks, kept = np.arange(len(before)), len(after)
    axes.axvspan(kept - 0.5, len(before) - 0.5, color=_REMOVED, linewidth=0)
    axes.bar(ranks, before, width=1.0, color=np.where(ranks < kept, _KEPT, _REST), linewidth=0)
    if kept:
        axes.stairs(after, np.arange(kept + 1) - 0.5, baseline=None, color=_AFTER, linewidth=1.3)
    axes.set_xlim(-0.5, max(len(before), 1) - 0.5)
    # Room above the highest bar for the count; 1 where all are zero.
    axes.set_ylim(0.0, 1.3 * max(before.max(initial=0.0), after.max(initial=0.0)) or 1.0)
    axes.locator_params(axis="y", nbins=3)
    axes.set_xticks([])
    axes.set_title(name, fontsize=7.5, color=_INK, loc="left", pad=3)
    label = f"{kept} of {len(before)} kept"
    axes.text(0.97, 0.93, label, transform=axes.transAxes, ha="right", va="top", fontsize=7.5)
    axes.tick_params(labelsize=6.5, length=2, color="#999999")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")


def _dress(
    figure: Any,
    layers: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    artists: tuple[Any, Any],
    size: tuple[float, float],
) -> None:
    """Add title and legend, and leave them the room they need, in inches from the top."""
    patch, line = artists
    width, height = size
    total, kept = sum(len(b) for _, b, _ in layers), sum(len(a) for _, _, a in layers)
    figure.text(
        0.14 / width,
        1 - 0.12 / height,
        f"BatchNorm scales |γ|, largest first: {kept} of {total} kept",
        fontsize=11,
        va="top",
        color=_INK,
    )
    handles = [
        patch(color=_KEPT, label="before the cut"),
        line([], [], color=_AFTER, linewidth=1.3, label="after the cut"),
        patch(color=_REMOVED, label="removed"),
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.06 / width, 1 - 0.34 / height),
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    figure.tight_layout(rect=(0.0, 0.0, 1.0, 1 - 0.62 / height), h_pad=0.9, w_pad=0.7)


def _matplotlib() -> tuple[Any, Any, Any]:
    try:
        # The object interface: pyplot would choose a backend for the user's whole process.
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingExtraError(
            f"A picture was asked for, but matplotlib cannot be imported ({error}). "
            "Install it: pip install 'gammaslim[report]'."
        ) from error
    return Figure, Patch, Line2D
