"""ChannelGraph: cost, masks, coverage, and what it says of plans that do not fit."""

import copy
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest

from gammaslim.arrays import FIXED, kept_count, kept_mask
from gammaslim.channels.graph import Cut
from gammaslim.channels.plan import Kept, Plan
from gammaslim.channels.records import Cost, Frozen, SizeAttribute, Work
from gammaslim.errors import PlanError
from tests.handmade import hand_graph, ids, plain_graph, residual_graph


def mask(*flags: int) -> np.ndarray:
    """A keep mask."""
    return np.array(flags, dtype=np.bool_)


def plan_of(graph, keep) -> Plan:
    """The plan that leaves ``keep``, made without gammaslim.select."""
    return Cut(graph, keep).plan


def test_cost_of_the_whole_network_is_the_sum_worked_out_by_hand():
    """conv0 108 + bn0 8 + conv1 108 + bn1 6 + head 8; 432 + 432 + 6 multiply-accumulates."""
    assert plain_graph([4, 3]).cost() == Cost(macs=870, params=238)


def test_cost_of_a_plan_follows_every_site():
    """Two channels of each layer: 54 + 4 + 36 + 4 + 6 parameters; 216 + 144 + 4."""
    graph = plain_graph([4, 3])
    keep = mask(1, 0, 1, 0, 1, 1, 0)
    assert Cut(graph, keep).cost == Cost(macs=364, params=104)
    assert graph.cost(plan_of(graph, keep)) == Cost(macs=364, params=104)


def test_work_multiplies_axes_and_counts_fixed_indices():
    """An index that can never go counts whatever the mask."""
    work = Work("mm", 10, (np.array([0, 1, FIXED]), np.array([1, 2])))
    assert work.macs(mask(1, 1, 1)) == 60
    assert work.macs(mask(0, 1, 0)) == 20


def test_size_attribute_is_a_sum_of_counted_shares():
    """Half of the first four indices, of which two are one channel, plus a constant."""
    half = (np.array([0, 0, 1, 1]), Fraction(1, 2))
    attribute = SizeAttribute("head.size", (half,), Fraction(3))
    assert attribute.value(mask(1, 1)) == 5
    assert attribute.value(mask(0, 1)) == 4


def test_size_attribute_counts_indices_that_can_never_go():
    """An index without a channel always counts."""
    attribute = SizeAttribute.counting("head.size", np.array([0, 1, FIXED]))
    assert attribute.value(mask(1, 1)) == 3
    assert attribute.value(mask(0, 1)) == 2


def test_kept_mask_without_any_channel_keeps_everything():
    """A network without channels has an empty mask, which must not be indexed."""
    empty = np.zeros(0, dtype=np.bool_)
    assert kept_mask(np.array([FIXED, FIXED]), empty).all()
    assert kept_count(np.array([FIXED, FIXED]), empty) == 2


def test_kept_sites_lists_only_what_shrinks():
    """Removing one stream channel leaves the block's own dimensions out."""
    graph = residual_graph(3, 2)
    kept = Cut(graph, mask(1, 0, 1, 1, 1)).sites
    assert set(kept) == {site for site, channels in graph.sites.items() if 1 in channels}
    assert kept[("down.weight", 1)].indices.tolist() == [0, 2]
    assert ("down.weight", 0) not in kept


def test_keep_mask_inverts_kept_sites():
    """Mask to plan to mask is the identity."""
    graph = residual_graph(4, 3)
    keep = mask(1, 0, 1, 1, 0, 1, 1)
    assert np.array_equal(graph.keep_mask(plan_of(graph, keep)), keep)
    assert graph.keep_mask(Plan()).all()


def test_coverage_counts_scales_not_channels():
    """A frozen stream of 4 holds 8 of the 10 scales."""
    assert residual_graph(4, 2).coverage == 1.0
    assert residual_graph(4, 2, frozen=range(4)).coverage == pytest.approx(0.2)
    assert plain_graph([4, 3], frozen_layers=[1]).coverage == pytest.approx(4 / 7)


def test_coverage_without_scales_is_zero():
    """Nothing to cover is no cover, not a division by zero."""
    graph = hand_graph(shapes={"a": (2,)}, sites={("a", 0): ids(0, 2)}, scales=[])
    assert graph.coverage == 0.0


def test_scored_marks_channels_with_a_scale():
    """Fixed indices of a scale belong to no channel."""
    graph = hand_graph(
        shapes={"bn": (3,), "fc": (2,)},
        sites={("bn", 0): np.array([0, FIXED, 2]), ("fc", 0): np.array([1, 3])},
        scales=["bn"],
    )
    assert graph.scored.tolist() == [True, False, True, False]
    assert graph.num_channels == 4


def test_groups_have_widths_and_the_graph_a_summary():
    """One group for the stream, one for the block."""
    graph = residual_graph(4, 3)
    assert [group.width for group in graph.groups] == [4, 3]
    assert repr(graph) == "ChannelGraph(groups=2, channels=7, coverage=1.000)"


def test_frozen_reads_as_one_line():
    """Parts that are unknown are left out."""
    assert str(Frozen("network output", "addmm", "head", "")) == "network output (addmm, head)"
    assert str(Frozen("ignored", "", "", "")) == "ignored"


def test_plan_for_an_unknown_site_is_refused():
    """The text names the site and asks the likely question."""
    plan = Plan({("nowhere", 1): Kept(np.array([0]), 2)})
    with pytest.raises(PlanError, match=r"dimension 1 of 'nowhere', which this graph does not"):
        plain_graph([4]).keep_mask(plan)


def test_plan_for_another_size_is_refused():
    """The text names both sizes."""
    plan = Plan({("bn0.weight", 0): Kept(np.array([0]), 8)})
    text = "dimension 0 of 'bn0.weight' has 8 indices; this graph has 4"
    with pytest.raises(PlanError, match=re.escape(text)):
        plain_graph([4]).keep_mask(plan)


def test_plan_that_cuts_a_frozen_channel_is_refused():
    """Frozen in this graph, whatever it was where the plan was made."""
    plan = plan_of(plain_graph([4, 3]), mask(1, 1, 1, 1, 0, 1, 1))
    with pytest.raises(PlanError, match=r"frozen in this graph\. Select a plan from this graph"):
        plain_graph([4, 3], frozen_layers=[1]).keep_mask(plan)


def test_plan_that_cuts_a_fixed_index_is_refused():
    """An index without a channel can never go."""
    graph = hand_graph(shapes={"a": (3,)}, sites={("a", 0): np.array([0, 1, FIXED])}, scales=[])
    plan = Plan({("a", 0): Kept(np.array([0, 1]), 3)})
    with pytest.raises(PlanError, match="frozen in this graph"):
        graph.keep_mask(plan)


def test_plan_that_forgets_a_site_is_refused():
    """A channel goes from all its sites or from none."""
    graph = plain_graph([4, 3])
    plan = plan_of(graph, mask(1, 0, 1, 1, 1, 1, 1))
    part = {site: kept for site, kept in plan.sites.items() if site != ("conv1.weight", 1)}
    text = r"keeps other slices of dimension 1 of 'conv1\.weight'.*from every tensor"
    with pytest.raises(PlanError, match=text):
        graph.keep_mask(Plan(part))


def test_plan_that_removes_half_of_a_channel_within_a_site_is_refused():
    """After a flatten one channel holds several indices of one dimension."""
    graph = hand_graph(shapes={"fc": (4,)}, sites={("fc", 0): np.array([0, 0, 1, 1])}, scales=[])
    plan = Plan({("fc", 0): Kept(np.array([0, 2, 3]), 4)})
    with pytest.raises(PlanError, match="keeps other slices of dimension 0 of"):
        graph.keep_mask(plan)


def test_a_graph_that_was_used_can_be_copied_and_pickled():
    """What it remembers of earlier cuts stays behind."""
    graph = residual_graph(4, 3)
    plan = Cut(graph, mask(1, 0, 1, 1, 1, 1, 0)).plan
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):  # noqa: S301
        assert other.cost(plan) == graph.cost(plan)
