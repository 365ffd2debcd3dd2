"""Pictures of letters and digits among clutter: a classification task that downloads nothing.

The 62 classes ``0-9A-Za-z`` are drawn with the text fonts that matplotlib brings along, each
picture with its own font, size, slant, place, contrast, background, neighbours and noise.  Some
classes look alike at the sizes that occur (``0 O o``, ``1 l I``), so that no network reaches 100 %.
"""

from __future__ import annotations

import math
import os
import string
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
CLASSES = len(ALPHABET)
SIZE = 32
"""Pixels along each side of a picture."""

CACHE = Path("build/accuracy")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_EM, _CANVAS, _BASELINE = 44, 64, 46
_ZOOM = 1.25
_CHUNK = 2000
_VERSION = 1  # part of the cache's name: raise it when what is drawn changes


@dataclass(frozen=True)
class Recipe:
    """What is drawn: how many pictures, from which seed, and how hard they are to read.

    ``difficulty`` multiplies the strength of neighbours and noise and the spread of sizes, angles
    and places; 0 is clean print.
    """

    train: int = 8000
    test: int = 4000
    seed: int = 0
    difficulty: float = 0.8


@dataclass(frozen=True, eq=False)
class Glyphs:
    """Pictures ``[n, 1, 32, 32]`` float, of mean 0 and variance 1, and labels ``[n]`` int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(recipe: Recipe | None = None, *, cache: Path | None = CACHE) -> Glyphs:
    """The pictures of ``recipe``, drawn once and then read from ``cache``.

    Args:
        recipe: what to draw; its defaults where none is given.
        cache: the folder to keep them in, or ``None`` to draw them anew and keep nothing.
    """
    recipe = recipe or Recipe()
    if cache is None:
        return draw(recipe)
    path = cache / f"glyphs-{_VERSION}-{'-'.join(map(str, astuple(recipe)))}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: other processes may read, or draw the same, meanwhile.
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **{name: value.numpy() for name, value in vars(draw(recipe)).items()})
        partial.replace(path)
    with np.load(path) as stored:
        return Glyphs(**{name: torch.from_numpy(stored[name]) for name in stored.files})


def draw(recipe: Recipe) -> Glyphs:
    """Draw the pictures of ``recipe``; training and test pictures are independent draws.

    Both are shifted and scaled by the mean and standard deviation of the training pictures.
    """
    shapes = templates()
    generator = torch.Generator().manual_seed(recipe.seed)
    train_labels = _labels(recipe.train, generator)
    train = _pictures(shapes, train_labels, recipe.difficulty, generator)
    test_labels = _labels(recipe.test, generator)
    test = _pictures(shapes, test_labels, recipe.difficulty, generator)
    mean, deviation = train.mean(), train.std()
    return Glyphs((train - mean) / deviation, train_labels, (test - mean) / deviation, test_labels)


def fonts() -> list[Path]:
    """The bundled fonts that hold all 62 characters, each under its own name, sorted.

    Fonts of symbols give the same codes to other shapes, or one shape to all of them; the names
    of their glyphs say so.
    """
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return [path for path in sorted(folder.glob("*.ttf")) if _holds_alphabet(path)]


def _holds_alphabet(path: Path) -> bool:
    font = FT2Font(str(path))
    codes: Mapping[int, int] = font.get_charmap()
    names = MappingProxyType(dict(zip(string.digits, _DIGITS, strict=True)))
    return all(
        ord(character) in codes
        and font.get_glyph_name(codes[ord(character)]) == names.get(character, character)
        for character in ALPHABET
    )


def templates() -> Tensor:
    """Coverage 0..1 of every class in every font, ``[classes, fonts, 64, 64]``.

    All characters stand on one baseline, centred from left to right: their size and height are
    what tells ``c`` from ``C``.
    """
    faces = [
        ImageFont.truetype(str(path), _EM, layout_engine=ImageFont.Layout.BASIC) for path in fonts()
    ]
    drawn = [[_template(face, character) for face in faces] for character in ALPHABET]
    return torch.from_numpy(np.array(drawn)).float() / 255


def _template(face: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    place = (_CANVAS / 2, _BASELINE)
    ImageDraw.Draw(canvas).text(place, character, fill=255, font=face, anchor="ms")
    return np.asarray(canvas)


def _labels(count: int, generator: torch.Generator) -> Tensor:
    """Each class equally often, to within one, in random order."""
    return (torch.arange(count) % CLASSES)[torch.randperm(count, generator=generator)]


def _pictures(shapes: Tensor, labels: Tensor, hard: float, generator: torch.Generator) -> Tensor:
    parts = [_draw_chunk(shapes, part, hard, generator) for part in labels.split(_CHUNK)]
    return torch.cat(parts)


def _draw_chunk(shapes: Tensor, labels: Tensor, hard: float, generator: torch.Generator) -> Tensor:
    count = len(labels)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    place = [between(-0.2 * hard, 0.2 * hard).flatten() for _ in range(2)]
    ink = _placed(shapes, labels, place, hard, generator)
    clutter = torch.zeros_like(ink)
    for _ in range(3):
        others = torch.randint(CLASSES, (count,), generator=generator)
        # On a ring about the middle, so that the neighbours overlap the character's rim at most.
        angle, radius = between(0, 2 * math.pi).flatten(), between(0.85, 1.15).flatten()
        ring = [radius * angle.cos(), radius * angle.sin()]
        other = _placed(shapes, others, ring, hard, generator)
        clutter = torch.maximum(clutter, other * between(0, min(1.0, 0.9 * hard)))
    ink = torch.maximum(ink, clutter)
    contrast = between(0.5, 1) * torch.where(between(0, 1) < 0.5, -1.0, 1.0)
    coarse = torch.randn(count, 1, 4, 4, generator=generator)
    background = functional.interpolate(coarse, size=SIZE, mode="bilinear", align_corners=True)
    fine = torch.randn(count, 1, SIZE, SIZE, generator=generator)
    return contrast * ink + hard * (0.2 * background + between(0.02, 0.2) * fine)


def _placed(
    shapes: Tensor, labels: Tensor, place: list[Tensor], hard: float, generator: torch.Generator
) -> Tensor:
    """Characters in random fonts, turned, slanted and scaled, at ``place``; ``[n, 1, 32, 32]``.

    Distances are in half pictures: ``(1, 0)`` is the middle of the right rim.
    """
    count = len(labels)

    def spread(amount: float) -> Tensor:
        return amount * hard * (2 * torch.rand(count, generator=generator) - 1)

    face = torch.randint(shapes.shape[1], (count,), generator=generator)
    angle, slant = spread(0.3), spread(0.25)
    size, aspect = _ZOOM * spread(0.15).exp(), spread(0.1).exp()
    cosine, sine = angle.cos(), angle.sin()
    # Rows of the map from picture to template: turn, slant, then stretch.
    across = torch.stack([cosine + slant * sine, slant * cosine - sine], dim=1)
    down = torch.stack([sine, cosine], dim=1)
    rows = torch.stack([across / (size * aspect)[:, None], down * (aspect / size)[:, None]], dim=1)
    centre = torch.stack(place, dim=1)[:, :, None]
    maps = torch.cat([rows, -rows @ centre], dim=2)
    grid = functional.affine_grid(maps, [count, 1, SIZE, SIZE], align_corners=False)
    chosen = shapes[labels, face][:, None]
    return functional.grid_sample(chosen, grid, align_corners=False)
