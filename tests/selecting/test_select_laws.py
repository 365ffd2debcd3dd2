"""Selection: what holds for every graph, all scores and any limits."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gammaslim.channels.graph import Cut
from gammaslim.errors import TargetError
from gammaslim.selecting.planning import select
from tests.handmade import plain_graph, widths_of

FEW = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # few values: many ties


@st.composite
def problems(draw):
    """A graph, its scores, and limits."""
    widths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    graph = plain_graph(widths)
    one = draw(st.sampled_from([FEW, st.floats(0, 2, width=16)]))
    count = sum(widths)
    scores = np.array(draw(st.lists(one, min_size=count, max_size=count)))
    limits = {
        "round_to": draw(st.sampled_from([1, 1, 2, 3, 8])),
        "min_channels": draw(st.integers(1, 4)),
        "max_remove": draw(st.sampled_from([1.0, 1.0, 0.5, 0.3, 0.0])),
    }
    return graph, scores, limits


def smallest_width(width, limits) -> int:
    """The fewest channels a group may keep, by trying all widths."""
    return min(
        kept
        for kept in range(1, width + 1)
        if kept == width
        or (
            kept >= limits["min_channels"]
            and width - kept <= limits["max_remove"] * width + 1e-9
            and kept % limits["round_to"] == 0
        )
    )


def check_limits(graph, scores, limits, keep):
    """Floors, caps and divisors hold, and the lowest scores went."""
    for group in graph.groups:
        kept = keep[group.channels]
        count = int(kept.sum())
        assert smallest_width(group.width, limits) <= count <= group.width
        assert count == group.width or count % limits["round_to"] == 0
        gone = scores[group.channels][~kept]
        assert not len(gone) or gone.max() <= scores[group.channels][kept].min()


@given(problems(), st.floats(0, 1), st.sampled_from(["global", "group"]))
def test_share_is_met_within_limits_or_refused_because_of_them(problem, ratio, scope):
    """Refused exactly when the smallest allowed widths do not suffice."""
    graph, scores, limits = problem
    total = graph.num_channels
    most = total - sum(smallest_width(group.width, limits) for group in graph.groups)
    wanted = round(ratio * total)
    if most < wanted:
        with pytest.raises(TargetError, match="the closest that floors"):
            select(graph, scores, remove_channels=ratio, scope=scope, **limits)
        return
    plan = select(graph, scores, remove_channels=ratio, scope=scope, **limits)
    keep = graph.keep_mask(plan)
    check_limits(graph, scores, limits, keep)
    removed = total - int(keep.sum())
    assert wanted <= removed
    if limits["round_to"] == 1:
        assert removed == wanted


@given(problems(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_removes_a_superset(problem, first, second):
    """Selection is monotone in its target; blocks that come back keep only the count monotone."""
    graph, scores, limits = problem
    low, high = sorted([first, second])
    try:
        more = graph.keep_mask(select(graph, scores, remove_channels=high, **limits))
    except TargetError:
        assume(condition=False)
    fewer = graph.keep_mask(select(graph, scores, remove_channels=low, **limits))
    if limits["round_to"] == 1:
        assert not (more & ~fewer).any()
    assert more.sum() <= fewer.sum()


@given(problems(), st.floats(0, 1), st.sampled_from(["macs", "params"]))
def test_cost_target_is_met_or_refused_with_what_is_reachable(problem, ratio, what):
    """What remains is at most what was asked, or the text's number works."""
    graph, scores, limits = problem
    whole = getattr(graph.cost(), what)
    try:
        plan = select(graph, scores, **{f"keep_{what}": ratio}, **limits)
    except TargetError as error:
        closest = float(str(error).split("allow is ")[1].split(". ")[0])
        assert closest > ratio
        plan = select(graph, scores, **{f"keep_{what}": closest}, **limits)
        ratio = closest
    assert getattr(graph.cost(plan), what) / whole <= ratio
    check_limits(graph, scores, limits, graph.keep_mask(plan))


@given(problems(), st.floats(-1, 3))
def test_threshold_spares_what_is_above_it(problem, threshold):
    """Nothing above it goes; what is below stays only where limits bind."""
    graph, scores, limits = problem
    keep = graph.keep_mask(select(graph, scores, threshold=threshold, **limits))
    check_limits(graph, scores, limits, keep)
    assert (scores[~keep] <= threshold).all()
    for group in graph.groups:
        above = int((scores[group.channels] > threshold).sum())
        least = max(above, smallest_width(group.width, limits))
        fewest = min(
            kept
            for kept in range(least, group.width + 1)
            if kept == group.width or kept % limits["round_to"] == 0
        )
        assert int(keep[group.channels].sum()) == fewest


@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(0, 0.5))
def test_equal_scores_lose_equal_shares(widths, ratio):
    """No group's loss is more than about one channel off its proportional part."""
    graph = plain_graph(widths)
    plan = select(graph, np.ones(sum(widths)), remove_channels=ratio)
    share = round(ratio * sum(widths)) / sum(widths)
    for width, kept in zip(widths, widths_of(graph, plan), strict=True):
        assert abs(width - kept - share * width) <= 1.5


@given(problems(), st.floats(0, 1))
def test_global_scope_spends_on_the_lowest_scores_first(problem, ratio):
    """Without limits, every removed score is at most every kept one outside a floor."""
    graph, scores, _ = problem
    try:
        keep = graph.keep_mask(select(graph, scores, remove_channels=ratio))
    except TargetError:
        assume(condition=False)
    spared = keep.copy()
    for group in graph.groups:
        if keep[group.channels].sum() == 1:  # its last channel stays whatever its score
            spared[group.channels] = False
    if spared.any() and (~keep).any():
        assert scores[~keep].max() <= scores[spared].min()


@given(problems(), st.floats(0, 1))
def test_no_block_could_come_back(problem, ratio):
    """With ``round_to``: one block more in any group, and a target of MACs would be missed."""
    graph, scores, limits = problem
    limits = {**limits, "round_to": max(limits["round_to"], 2)}
    try:
        keep = graph.keep_mask(select(graph, scores, keep_macs=ratio, **limits))
    except TargetError:  # as much may not go: there is nothing that could come back
        return
    for group in graph.groups:
        left = int(keep[group.channels].sum())
        if left == group.width:
            continue
        wider = min(left + limits["round_to"], group.width)
        more = keep.copy()
        more[group.channels[np.argsort(-scores[group.channels], kind="stable")[:wider]]] = True
        assert Cut(graph, more).cost.macs > ratio * graph.cost().macs * (1 - 1e-12)
