"""The gap: distributions with a valley, and those without."""

import numpy as np
import pytest

import gammaslim as gs
from gammaslim.errors import TargetError
from gammaslim.selecting.thresholds import gap_threshold
from tests.handmade import plain_graph, widths_of

RNG = np.random.default_rng(0)


def around(level, count, spread=0.2):
    """That many scores around a level, spread by so many decades."""
    return level * 10 ** RNG.normal(0, spread, count)


def gap_of(*clusters):
    scores = np.concatenate(clusters)
    return gap_threshold(plain_graph([len(scores)]), RNG.permutation(scores))


@pytest.mark.parametrize("low", [1e-30, 1e-6, 1e-3])
@pytest.mark.parametrize("sizes", [(20, 20), (300, 60), (50, 900)])
def test_two_clusters_are_told_apart(low, sizes):
    """All of the lower one is below the threshold, all of the other above."""
    below, above = around(low, sizes[0]), around(0.7, sizes[1])
    assert below.max() < gap_of(below, above) < above.min()


def test_the_threshold_is_in_the_middle_of_an_empty_valley():
    """Between 1e-5 and 1: about half-way on the logarithmic axis."""
    found = gap_of(np.full(50, 1.01e-5), np.full(50, 1.01))
    assert np.log10(found) == pytest.approx(-2.5, abs=0.3)


def test_a_few_scores_in_the_valley_do_not_fill_it():
    below, above = around(1e-5, 300), around(0.7, 300)
    found = gap_of(below, above, np.geomspace(1e-4, 1e-1, 12))
    assert below.max() < found < above.min()


@pytest.mark.parametrize(
    "scores",
    [
        np.ones(100),
        np.abs(np.random.default_rng(1).normal(0.5, 0.2, 2000)),
        np.abs(np.random.default_rng(2).normal(0.0, 1.0, 2000)),
        np.random.default_rng(3).uniform(0, 1, 2000),
        np.geomspace(1e-6, 1, 500),
        np.concatenate([[5.0], np.linspace(0.01, 0.02, 200)]),  # one far above
        np.concatenate([[1e-9, 1e-8, 1e-7], np.linspace(0.5, 1, 200)]),  # stragglers
        np.concatenate([np.linspace(0.2, 0.25, 50), np.linspace(0.9, 1, 50)]),  # levels
    ],
    ids=["ones", "normal", "half", "uniform", "decades", "above", "stragglers", "levels"],
)
def test_one_cluster_has_no_gap(scores):
    """The error says where the scores lie and what to do."""
    text = r"no valley: of \d+ prunable channels the lowest score is .*per decade: .*Proximal"
    with pytest.raises(TargetError, match=text):
        gap_threshold(plain_graph([len(scores)]), scores)


def test_one_cluster_has_no_gap_for_any_seed():
    """The tail of scales towards zero is not taken for a cluster."""
    graph = plain_graph([1000])
    for seed in range(200):
        scores = np.abs(np.random.default_rng(seed).normal(0.5, 0.25, 1000))
        with pytest.raises(TargetError, match="no valley"):
            gap_threshold(graph, scores)


def test_zeros_are_a_cluster_of_their_own():
    """With one other cluster, they are all that goes; also where nothing else is."""
    assert gap_of(np.zeros(3), np.linspace(0.5, 1, 100)) == 0.0
    assert gap_of(np.zeros(10)) == 0.0


def test_zeros_and_what_is_near_them_go():
    below, above = around(1e-6, 50), around(0.7, 50)
    assert below.max() < gap_of(np.zeros(40), below, above) < above.min()


def test_of_three_clusters_the_two_largest_are_told_apart():
    """A small cluster far below does not hide the valley that matters."""
    small, near, rest = around(1e-12, 8), around(1e-5, 200), around(0.7, 300)
    assert near.max() < gap_of(small, near, rest) < rest.min()


def test_infinite_scores_protect_and_do_not_count():
    below, above = around(1e-5, 50), around(0.7, 50)
    assert below.max() < gap_of(below, above, np.full(9, np.inf)) < above.min()
    with pytest.raises(TargetError, match="no valley"):
        gap_of(np.full(9, np.inf))


def test_negative_scores_are_refused():
    with pytest.raises(TargetError, match=r"2 of 4 scores are below 0"):
        gap_threshold(plain_graph([4]), np.array([-1.0, -2.0, 1.0, 0.0]))


def test_select_takes_the_gap():
    """The lower halves go, and floors hold."""
    graph = plain_graph([32, 32, 32])
    low, high = around(1e-5, 16), around(0.7, 16)
    scores = np.concatenate([low, high, high, low, low, low])
    assert widths_of(graph, gs.select(graph, scores, threshold="gap")) == [16, 16, 1]
    plan = gs.select(graph, scores, threshold="gap", max_remove=0.5, round_to=8)
    assert widths_of(graph, plan) == [16, 16, 16]


def test_another_word_is_refused():
    with pytest.raises(TargetError, match=r"threshold='valley' was asked; .* or 'gap'"):
        gs.select(plain_graph([4]), np.ones(4), threshold="valley")
