"""The zoo: tiny networks, each with one awkward habit, on inputs of about 2 x 3 x 16 x 16."""

from __future__ import annotations

from tests.nets.attention import ATTENTION
from tests.nets.attributes import ATTRIBUTES
from tests.nets.case import Case
from tests.nets.classic import CLASSIC
from tests.nets.foreign import FOREIGN
from tests.nets.interfaces import INTERFACES
from tests.nets.operators import OPERATORS
from tests.nets.reshaping import RESHAPING
from tests.nets.shuffling import SHUFFLING

ZOO: tuple[Case, ...] = (
    CLASSIC + RESHAPING + SHUFFLING + OPERATORS + FOREIGN + ATTENTION + INTERFACES + ATTRIBUTES
)
NAMES: tuple[str, ...] = tuple(case.name for case in ZOO)
