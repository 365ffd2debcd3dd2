"""Two and four processes end where one does: DDP, FSDP2 in several forms, HSDP."""

import numpy as np
import pytest
import torch

from tests.training.common import small_net, traced
from tests.training.processes import (
    PENALTIES,
    STEPS,
    STYLES,
    cut_in_training,
    run_group,
    trained,
)

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
"""Double precision; shares of a batch are averaged in another order than the whole of it."""

WORLDS = (2, 4)
GRAPH = traced(small_net())


@pytest.fixture(scope="module", params=WORLDS)
def group(request, tmp_path_factory):
    """What every process of one group found."""
    return run_group(request.param, tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def alone():
    """What one process finds."""
    return {name: trained(penalty) for name, penalty in PENALTIES.items()}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("style", [*STYLES, "HSDP"])
def test_scales_are_those_of_one_process(group, alone, style, penalty):
    """On every process, with the same exact zeros, statistics and plan."""
    if style == "HSDP" and len(group) < 4:
        assert ("HSDP", penalty) not in group[0]
        return
    expected = alone[penalty]
    for results in group:
        found = results[(style, penalty)]
        assert found["scales"].keys() == expected["scales"].keys()
        for name, value in expected["scales"].items():
            torch.testing.assert_close(found["scales"][name], value, **TIGHT)
            assert torch.equal(found["scales"][name] == 0, value == 0)
        assert found["stats"] == pytest.approx(expected["stats"], rel=1e-9)
        assert found["steps"] == expected["steps"]
        assert found.get("plan") == expected.get("plan")


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("style", [*STYLES, "HSDP"])
def test_processes_agree_to_the_bit(group, style, penalty):
    """Scales and statistics."""
    if style == "HSDP" and len(group) < 4:
        return
    first, *others = (results[(style, penalty)] for results in group)
    for other in others:
        assert all(
            torch.equal(value, other["scales"][name]) for name, value in first["scales"].items()
        )
        assert other["stats"] == first["stats"]


def test_the_references_hold_something(alone):
    """Some channels at zero and some not, where there are to be; scales that moved."""
    start = {n: p for n, p in small_net().named_parameters() if n.startswith("bn")}
    for name, result in alone.items():
        zeros = torch.cat([value == 0 for value in result["scales"].values()])
        assert zeros.any() == (name in ("Proximal", "Budget"))
        assert not zeros.all()
        assert all(
            (value - start[key]).abs().max() > 1e-3 for key, value in result["scales"].items()
        )


def test_a_sharded_training_resumes_bit_for_bit(group):
    """Before, inside and after the window of a budget of 12 steps (steps 1 to 5, zero at 6)."""
    for results in group:
        if len(group) == 2:
            assert results["resumed"] == {1: True, 3: True, 8: True}


def test_a_sharded_average_gets_the_same_zeros(group):
    """One that is whole on every process does not fit, and is refused with what to do."""
    for results in group:
        found = results["averaged"]
        assert torch.equal(found["mean"], found["live"])
        assert 0 < found["live"].sum() < len(found["live"])
        assert found["refusal"].startswith(
            "StaleGraphError: ema= should be sharded like the network"
        )


def test_an_overflow_on_one_process_poisons_none(group):
    """All skip the step; the budget is met all the same."""
    first = group[0]["overflowed"]
    assert first["steps"] == STEPS
    assert first["stats"]["dead"] > 0
    for results in group:
        found = results["overflowed"]
        assert found["state"]["scores"].isfinite().all()
        assert all(value.isfinite().all() for value in found["scales"].values())
        assert found["plan"] == first["plan"]
        assert found["stats"] == first["stats"]
        assert torch.equal(found["state"]["scores"], first["state"]["scores"])


def test_scores_of_a_sharded_network_are_those_of_the_whole(group):
    """On every process."""
    for results in group:
        if len(group) == 2:
            scored = results["scored"]
            assert np.array_equal(scored["after"], scored["before"], equal_nan=True)


def test_synchronised_batchnorms_are_penalised_like_others(group, alone):
    """Converted after tracing and before wrapping: the parameters are the same ones."""
    for results in group:
        if len(group) == 2:
            found = results["synchronised"]["scales"]
            for name, value in alone["GroupLasso"]["scales"].items():
                torch.testing.assert_close(found[name], value, **TIGHT)


def test_scales_over_two_meshes_are_refused(group):
    """Their norms could not be summed."""
    for results in group:
        if len(group) == 4:
            text = "OptimizerError: The penalised scales are sharded over 2 different device meshes"
            assert results["two_meshes"].startswith(text)


def test_a_cut_network_goes_on_in_a_new_wrapper(group):
    """As one process does; the old wrapper, which would average nothing any more, refuses."""
    expected = cut_in_training("")
    for results in group:
        found = results["cut_under_ddp"]
        assert "Wrap it again: model = DistributedDataParallel(model.module)" in found["refused"]
        for one, other in zip(found["weights"], expected["weights"], strict=True):
            torch.testing.assert_close(one, other, **TIGHT)


def test_a_sharded_network_is_not_cut(group):
    for results in group:
        assert "sharded over processes (FSDP2)" in results["cut_while_sharded"]


def test_a_network_gathered_cut_and_sharded_again_goes_on(group):
    """Weights and momentum as in one process that was cut at the same step."""
    expected = cut_in_training("")["weights"]
    for results in group:
        found = results["cut_and_sharded_again"]["weights"]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, **TIGHT)
