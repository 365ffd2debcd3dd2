"""Groups: channels that have the same sites, for a report and for whatever is done per layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from gammaslim.arrays import IntArray, Site
from gammaslim.channels import Couplings, Group
from gammaslim.tracing.numbering import Channels


def groups(
    channels: Channels,
    sites: Mapping[Site, IntArray],
    scales: Sequence[str],
    couplings: Couplings,
    frozen: Sequence[tuple[IntArray, int]],
) -> Iterator[Group]:
    """Channels with the same sites, the same reason and the same exactness, in order.

    ``frozen``: labels that were frozen themselves, and the numbers of the reasons.
    """
    chain = channels.chains(couplings, frozen)
    _, first, inverse = np.unique(
        group_keys(channels, sites), return_index=True, return_inverse=True
    )
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(first) + 1))
    members_of = [order[a:b].astype(np.int64) for a, b in pairwise(bounds)]
    leading = np.zeros(len(channels.reasons) + 1, dtype=np.bool_)  # a fixed index looks at its end
    leading[first] = True
    sites_of: dict[int, list[Site]] = {int(leader): [] for leader in first}
    for site, ids in sites.items():
        for leader in set(ids[leading[ids]].tolist()):
            sites_of[leader].append(site)
    known = set(scales)
    for index in np.argsort(first, kind="stable"):
        ids, own = members_of[index], tuple(sites_of[int(first[index])])
        own_scales = tuple(name for name, dim in own if name in known and dim == 0)
        reason = int(channels.reasons[ids[0]])
        name = own_scales[0].rpartition(".")[0] if own_scales else own[0][0]
        yield Group(
            name or own_scales[0],
            ids,
            own,
            own_scales,
            reason < 0,
            not bool(channels.inexact[ids[0]]),
            "" if reason < 0 else couplings.reasons[reason].text,
            "" if reason < 0 else chain([(s, int(np.argmax(sites[s] == ids[0]))) for s in own]),
        )


def group_keys(channels: Channels, sites: Mapping[Site, IntArray]) -> IntArray:
    """Per channel a number that is equal for channels of one group.

    A set of sites is known by the sum of one random 64-bit number per site: two of a million sets
    are taken for one with a probability of 3e-8.
    """
    random = np.random.default_rng(0).integers(-(2**63), 2**63, size=len(sites) + 2, endpoint=False)
    key = channels.reasons * random[0] + channels.inexact * random[1]
    for ids, one in zip(sites.values(), random[2:], strict=True):
        key[ids[ids >= 0]] += one  # a repeated index is added once, as a set wants it
    return key
