"""Which sites a user's ``ignore`` names: modules, dotted names, patterns, or single sites."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from gammaslim.arrays import Site
from gammaslim.errors import TraceError
from gammaslim.network import first_paths, named_tensors


def ignored_sites(model: nn.Module, ignore: Iterable[nn.Module | str | Site]) -> set[Site]:
    """All sites that must stay as they are.

    Raises:
        TraceError: an entry names nothing in this network.
    """
    if isinstance(ignore, str | nn.Module):
        ignore = (ignore,)
    entries = list(ignore)
    if not entries:
        return set()
    tensors, names = named_tensors(model), first_paths(model)
    found: set[Site] = set()
    for entry in entries:
        if isinstance(entry, nn.Module):
            pattern = names.get(entry)
        else:
            pattern = entry if isinstance(entry, str) else None
        if isinstance(entry, tuple):
            sites = {entry} & {(n, d) for n, t in tensors.items() for d in range(t.ndim)}
        elif pattern is None:
            sites = set[Site]()
        else:
            sites = {
                (name, dim)
                for name, tensor in tensors.items()
                if _matches(name, pattern)
                for dim in range(tensor.ndim)
            }
        if not sites:
            shown = type(entry).__name__ if isinstance(entry, nn.Module) else repr(entry)
            raise TraceError(
                f"ignore names {shown}, which has no tensor in this network. Give a "
                "module of it, a name or pattern such as 'head' or 'layer4.*', or a site such as "
                "('head.weight', 0)."
            )
        found |= sites
    return found


def _matches(name: str, pattern: str) -> bool:
    """Whether a tensor lies in the module, or has the name, or fits the pattern."""
    if pattern in ("", name) or name.startswith(pattern + "."):
        return True
    owner = name.rpartition(".")[0]
    parts = owner.split(".")
    prefixes = (".".join(parts[: k + 1]) for k in range(len(parts)))
    return fnmatchcase(name, pattern) or any(fnmatchcase(p, pattern) for p in prefixes)
