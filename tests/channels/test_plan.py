"""Plan: a record that refuses nonsense, composes, and survives JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gammaslim.channels.plan import Kept, Plan
from gammaslim.errors import PlanError

SITE = ("conv.weight", 0)


def plan(kept, size=4, attributes=None) -> Plan:
    """A plan for one site."""
    return Plan({SITE: Kept(np.array(kept, dtype=np.int64), size)}, attributes or {})


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param([], id="empties the site"),
        pytest.param([0, 1, 2, 3], id="shrinks nothing"),
        pytest.param([1, 1], id="repeated"),
        pytest.param([-1, 2], id="negative"),
        pytest.param([0, 4], id="out of range"),
        pytest.param([[0, 1]], id="two-dimensional"),
        pytest.param(2, id="no array at all"),
    ],
)
def test_indices_that_no_cut_could_follow_are_refused(kept):
    """The text names the site, the range, and what was found."""
    text = r"kept indices of dimension 0 of 'conv\.weight' must be .*fewer than 4 .*found"
    with pytest.raises(PlanError, match=text):
        plan(kept)


def test_equality_compares_content():
    """Two records of the same cut are equal, and plans are not hashable."""
    assert plan([0, 2]) == plan([0, 2])
    assert plan([0, 2]) != plan([0, 1])
    assert plan([0, 2]) != plan([0, 2], size=5)
    assert plan([0, 2]) != plan([0, 2], attributes={"conv.out_channels": 2})
    assert plan([0, 2]) != "a plan"
    with pytest.raises(TypeError):
        hash(plan([0]))


def test_repr_says_how_much_goes():
    """Slices over all sites."""
    assert repr(plan([0])) == "Plan(1 sites shrink, 3 slices go)"


def test_then_counts_in_the_original():
    """The later plan's 0 and 2 are the original's 1 and 5."""
    first = plan([1, 3, 5], size=6, attributes={"a": 3, "b": 9})
    second = plan([0, 2], size=3, attributes={"a": 2})
    assert first.then(second) == plan([1, 5], size=6, attributes={"a": 2, "b": 9})


def test_then_takes_over_sites_that_only_one_of_them_cuts():
    """Neither plan may lose its own sites."""
    other = ("fc.weight", 1)
    both = plan([1, 2]).then(Plan({other: Kept(np.array([0]), 7)}))
    assert both.kept[SITE].tolist() == [1, 2]
    assert both.sizes == {SITE: 4, other: 7}


def test_then_refuses_a_plan_for_another_size():
    """The text names what was expected and what is left."""
    text = r"expects 4 indices in dimension 0 of 'conv\.weight'; the earlier one leaves 2"
    with pytest.raises(PlanError, match=text):
        plan([0, 1]).then(plan([0]))


@given(st.data(), st.integers(3, 30))
def test_then_is_indexing_twice(data, size):
    """x[first][second] equals x[first then second]."""
    choose = st.sets(st.integers(0, size - 1), min_size=2, max_size=size - 1)
    first = sorted(data.draw(choose))
    positions = st.sets(st.integers(0, len(first) - 1), min_size=1, max_size=len(first) - 1)
    second = sorted(data.draw(positions))
    x = np.arange(size) * 10
    both = plan(first, size).then(plan(second, len(first)))
    assert np.array_equal(x[both.kept[SITE]], x[first][second])


def test_json_round_trip_keeps_everything():
    """Several sites, plain and tuple attributes, a name with a dot and a quote."""
    odd = ('block."x".weight', 1)
    before = Plan(
        {SITE: Kept(np.array([0, 3]), 4), odd: Kept(np.array([1]), 2)},
        {"conv.groups": 2, "norm.normalized_shape": (2, 8)},
    )
    after = Plan.from_json(before.to_json())
    assert after == before
    assert after.attributes["norm.normalized_shape"] == (2, 8)
    assert after.kept[SITE].dtype == np.int64


def arranged(kept, order, size) -> Plan:
    """A plan whose kept slices stand in this order."""
    record = {"tensor": SITE[0], "dim": SITE[1], "size": size, "kept": list(kept)}
    entry = {**record, "order": [int(place) for place in order]}
    return Plan.from_json(json.dumps({"gammaslim_plan": 3, "sites": [entry], "attributes": {}}))


def test_order_says_which_slice_comes_first():
    """Slices 1, 4 and 5, of which the last comes first."""
    assert arranged([1, 4, 5], [2, 0, 1], 6).indices(SITE).tolist() == [5, 1, 4]
    assert plan([1, 2]).indices(SITE).tolist() == [1, 2]


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1], [1, 2, 3], [-1, 0, 1]])
def test_orders_that_are_no_permutation_are_refused(order):
    with pytest.raises(PlanError, match=r"order of dimension 0 of 'conv\.weight' must hold each"):
        arranged([1, 4, 5], order, 6)


def test_views_by_kind_follow_from_the_sites():
    """Slice i of the cut tensor is kept[orders[i]]; what is sorted has no order."""
    found = arranged([1, 4, 5], [2, 0, 1], 6)
    assert found.kept[SITE].tolist() == [1, 4, 5]
    assert found.orders[SITE].tolist() == [2, 0, 1]
    assert found.sizes == {SITE: 6}
    assert not plan([1, 2]).orders


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (plan([0, 2]), plan([0, 2]), ""),
        (plan([0, 2]), Plan(), "it keeps other slices of dimension 0 of 'conv.weight'"),
        (plan([0, 2]), plan([0, 2], 5), "it keeps other slices of dimension 0 of 'conv.weight'"),
        (
            arranged([1, 4], [1, 0], 6),
            plan([1, 4], 6),
            "it puts the kept slices of dimension 0 of 'conv.weight' in another order",
        ),
        (
            plan([0], attributes={"conv.groups": 2}),
            plan([0], attributes={"conv.groups": 1}),
            "it sets the size attribute 'conv.groups' to 2, where 1 is right",
        ),
    ],
)
def test_the_first_difference_is_named(one, other, text):
    assert one.difference(other) == text


def test_an_order_is_part_of_the_plan():
    assert arranged([1, 4], [1, 0], 6) != plan([1, 4], 6)
    assert arranged([1, 4], [1, 0], 6) == arranged([1, 4], [1, 0], 6)


def test_later_indices_count_in_the_earlier_order():
    """5 1 4, then its places 0 and 2 turned round: 4 5, which is sorted again."""
    first = arranged([1, 4, 5], [2, 0, 1], 6)
    assert first.then(plan([0, 2], 3)).indices(SITE).tolist() == [5, 4]
    both = first.then(arranged([0, 2], [1, 0], 3))
    assert both == plan([4, 5], 6)
    assert not both.orders


@given(st.data())
def test_orders_compose_like_indexing(data):
    """``x[first][second] == x[first.then(second)]``, whatever the orders."""
    size = data.draw(st.integers(3, 12))
    first = data.draw(st.permutations(range(size)))[: data.draw(st.integers(2, size - 1))]
    places = data.draw(st.permutations(range(len(first))))
    second = places[: data.draw(st.integers(1, len(first) - 1))]
    plans = [
        arranged(sorted(chosen), np.argsort(np.argsort(chosen)), length)
        for chosen, length in ((first, size), (second, len(first)))
    ]
    both = plans[0].then(plans[1])
    assert both.indices(SITE).tolist() == [first[place] for place in second]
    assert Plan.from_json(both.to_json()) == both


def test_version_1_is_still_read():
    """It knew no orders."""
    text = plan([0, 2]).to_json().replace('"gammaslim_plan":2', '"gammaslim_plan":1')
    assert Plan.from_json(text) == plan([0, 2])


def test_empty_plan_survives_json():
    """Removing nothing is a plan too."""
    assert Plan.from_json(Plan().to_json()) == Plan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON text"),
        ("[]", "no 'gammaslim_plan' version"),
        ("{}", "no 'gammaslim_plan' version"),
        ('{"gammaslim_plan": 99}', "has version 99; this gammaslim reads versions up to 3"),
        ('{"gammaslim_plan": 1}', "damaged: KeyError"),
        ('{"gammaslim_plan": 1, "sites": 3, "attributes": {}}', "damaged: TypeError"),
        ('{"gammaslim_plan": 1, "sites": [], "attributes": null}', "damaged: AttributeError"),
    ],
)
def test_text_that_is_no_plan_is_refused(text, message):
    """Not JSON, not a plan, another version, or damaged."""
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


def test_damaged_indices_are_refused():
    """The record is checked as if it had been made here."""
    record = json.loads(plan([0, 2]).to_json())
    record["sites"][0]["kept"] = [2, 0]
    with pytest.raises(PlanError, match="must be a sorted 1-D array"):
        Plan.from_json(json.dumps(record))
    record["sites"][0]["kept"] = ["x"]
    with pytest.raises(PlanError, match="damaged: TypeError"):
        Plan.from_json(json.dumps(record))


def test_indices_that_are_no_integers_are_damage():
    """A float is not rounded to some other channel."""
    text = Plan({("w", 0): Kept(np.array([0, 1]), 3)}).to_json()
    with pytest.raises(PlanError, match="damaged"):
        Plan.from_json(text.replace("[0,1]", "[0.7,1.9]"))
