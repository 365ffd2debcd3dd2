"""The law on networks that Hypothesis makes up."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import event, given
from hypothesis import strategies as st

import gammaslim as gs
from bench import oracle
from tests.nets.case import noise
from tests.nets.random_nets import SIZE, Program, build, programs

REFUSED_AT_MOST = 0.25
IMAGE = noise(2, 3, SIZE, SIZE)().double()


def refusal(error: gs.GammaslimError) -> str:
    """The kind of a refusal, which must carry a reason."""
    assert len(str(error)) > 40, "a refusal says what was asked, what was found, what to do"
    return type(error).__name__


def outcome_of(program: Program, remove: float, seed: int, *, select_inputs: bool) -> str:
    """Check the law on one network; the kind of refusal, or ``"held"``.

    A wrong answer that the library caught itself is still a wrong answer here.
    """
    model = build(program, seed)
    try:
        oracle.check_law(model, IMAGE, remove, seed, tolerance=1e-6, select_inputs=select_inputs)
    except gs.VerificationError:
        raise
    except gs.GammaslimError as error:
        return refusal(error)
    return "held"


def test_law_holds_on_made_up_networks() -> None:
    """Every network either obeys the law or is refused with a reason, and few are refused."""
    tally: Counter[str] = Counter()

    @given(programs(), st.sampled_from((0.2, 0.4, 0.7)), st.integers(0, 9), st.booleans())
    def law(program: Program, remove: float, seed: int, select_inputs: bool) -> None:  # noqa: FBT001
        """One example."""
        kind = outcome_of(program, remove, seed, select_inputs=select_inputs)
        event(kind)
        tally[kind] += 1

    law()
    assert tally["held"] >= (1 - REFUSED_AT_MOST) * tally.total(), dict(tally)


def test_random_networks_are_reproducible() -> None:
    """The same program gives the same network, weights included."""

    @given(programs())
    def same(program: Program) -> None:
        """Two builds agree bit for bit, run forward, and run backward in training mode."""
        first, second = build(program), build(program)
        left, right = oracle.outputs(first, IMAGE), oracle.outputs(second, IMAGE)
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
        oracle.check_training(first, IMAGE)

    same()
