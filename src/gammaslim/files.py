"""One file for weights and plan: safetensors, written atomically, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from gammaslim.arrays import owner
from gammaslim.channels import Plan
from gammaslim.cutting import add_bias, apply_plan, biases_added, cuts_by_tensor, remembered_plan
from gammaslim.errors import FileFormatError, PlanError
from gammaslim.network import named_aliases, named_tensors, on_meta, unwrap

FORMAT = "gammaslim"
VERSION = "1"


@dataclass(frozen=True)
class Contents:
    """What a file holds: the cut tensors by name, and what shapes a fresh network.

    That is the plan, and the paths of the layers that were given a bias.  ``versions``: of the
    state of each module, by path, which its code may ask for when it is loaded.
    """

    tensors: Mapping[str, Tensor]
    plan: Plan
    added_biases: tuple[str, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict[str, int])


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of ``model`` and the plan of everything cut from it to one file.

    The file is safetensors with the plan in its metadata.  It appears whole or not at all: it is
    written beside its place and moved there.

    Raises:
        FileFormatError: the state dict holds something that is no tensor, or the folder cannot be
            written to.
    """
    model = unwrap(model)
    state = _state(model)
    aliases = named_aliases(state)  # each shared tensor is stored once
    tensors = {
        n: t.detach().cpu().contiguous().clone() for n, t in state.items() if n not in aliases
    }
    plan = remembered_plan(model).to_json()
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "plan": plan,
        "added_biases": json.dumps(biases_added(model)),
        "state_versions": json.dumps(_versions(model), separators=(",", ":")),
        "sha256": _digest(tensors, plan),
    }
    target = Path(path)
    try:
        _write_atomically(target, serialise(tensors, metadata))
    except OSError as error:
        raise FileFormatError(
            f"{target} cannot be written: {error}. Give a path in a folder that exists and is "
            "writable."
        ) from error


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Cut a fresh, unpruned ``model`` to the shape of the file, then load its weights strictly.

    Everything is checked before anything is changed.  Returns ``model``.

    Raises:
        FileFormatError: no such file, not a gammaslim file, an unknown version, truncated or
            altered, or made for another architecture; each says so, and the model is untouched.
        PlanError: a layer that left the network of the file has hooks here.
    """
    inner = unwrap(model)
    contents = read(path)
    if not remembered_plan(inner).empty:
        raise FileFormatError(
            f"{path} is for a network as it was built, and this one has already been cut. Build a "
            "fresh one and load into that."
        )
    _check_fits(inner, contents, path)
    undo = apply_plan(inner, contents.plan)
    try:
        for name in contents.added_biases:
            undo.steps.append(add_bias(inner.get_submodule(name)))
        inner.load_state_dict(
            _loadable(inner, contents), strict=True, assign=on_meta(named_tensors(inner))
        )
    except BaseException:
        undo()
        raise
    return model


def read(path: str | os.PathLike[str]) -> Contents:
    """The tensors and the plan in a file, checked against its checksum.

    Raises:
        FileFormatError: as :func:`load`.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            _check_header(metadata, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise FileFormatError(f"There is no file {path}.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(
            f"{path} is truncated or no safetensors file ({error}). Save it again."
        ) from error
    try:
        plan = Plan.from_json(metadata["plan"])
    except (KeyError, PlanError) as error:
        raise FileFormatError(f"{path} holds no readable plan ({error}). Save it again.") from error
    if _digest(tensors, metadata.get("plan", "")) != metadata.get("sha256"):
        raise FileFormatError(
            f"{path} has been altered since it was saved: its checksum does not match. Save it "
            "again, or fetch an undamaged copy."
        )
    biases = tuple(json.loads(metadata.get("added_biases", "[]")))
    return Contents(tensors, plan, biases, json.loads(metadata.get("state_versions", "{}")))


def _check_header(metadata: Mapping[str, str], path: object) -> None:
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"{path} is a safetensors file, but gammaslim.save did not write it: it has no plan. "
            "Load plain weights with load_state_dict."
        )
    if metadata.get("version") != VERSION:
        raise FileFormatError(
            f"{path} has format version {metadata.get('version')!r}; this gammaslim reads version "
            f"{VERSION!r}. Install the gammaslim that wrote it."
        )


def _check_fits(model: nn.Module, contents: Contents, path: object) -> None:
    """Compare names and the shapes that the cut would leave, before touching anything."""
    state = _state(model)
    aliases = named_aliases(state)
    expected = {n: tuple(t.shape) for n, t in state.items() if n not in aliases}
    present = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    remnants = contents.plan.remnants
    expected = {n: shape for n, shape in expected.items() if owner(n) not in remnants}
    values = {f"{path}.value": (own.width,) for path, own in remnants.items() if own.told}
    for (name, dim), size in contents.plan.sizes.items():
        shape = {**present, **values}.get(name, ())
        if len(shape) <= dim or shape[dim] != size:
            found = list(shape) if shape else "no such tensor"
            raise _mismatch(path, f"dimension {dim} of {name!r} had size {size}; here: {found}")
    expected |= values
    for name, cuts in cuts_by_tensor(contents.plan).items():
        if name in expected:
            expected[name] = tuple(
                len(cuts[d]) if d in cuts else n for d, n in enumerate(expected[name])
            )
    for name in contents.added_biases:
        weight = expected.get(f"{name}.weight")
        if weight is None or f"{name}.bias" in expected:
            lack = "no weight" if weight is None else "a bias of its own"
            raise _mismatch(path, f"a bias was added to {name!r}, which has {lack} here")
        expected[f"{name}.bias"] = weight[:1]
    _check_modules(model, contents.plan, path)
    found_shapes = {name: tuple(tensor.shape) for name, tensor in contents.tensors.items()}
    for name in sorted({*expected, *found_shapes}):
        if expected.get(name) != found_shapes.get(name):
            raise _mismatch(
                path,
                f"{name!r} is {_shown(found_shapes.get(name))} in the file and would be "
                f"{_shown(expected.get(name))} in this network",
            )


def _check_modules(model: nn.Module, plan: Plan, file: object) -> None:
    """What the plan sets on modules besides their tensors must exist."""
    for path in (*plan.attributes, *plan.inputs, *plan.remnants):
        owner, _, name = path.rpartition(".")
        try:
            getattr(model.get_submodule(owner), name)
        except AttributeError as error:
            raise _mismatch(file, f"it sets {path!r}, which does not exist here") from error


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _mismatch(path: object, what: str) -> FileFormatError:
    return FileFormatError(
        f"{path} was saved from another architecture: {what}. Build the network exactly as it was "
        "built before it was cut."
    )


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = dict(model.state_dict(keep_vars=True))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise FileFormatError(
                f"The state dict entry {name!r} is a {type(value).__name__}, not a tensor; a "
                "safetensors file cannot hold it. Make it a buffer."
            )
    return state


def _versions(model: nn.Module) -> dict[str, int]:
    """What ``torch.save`` would keep of a state dict besides its tensors."""
    metadata: Mapping[str, Mapping[str, Any]] = getattr(model.state_dict(), "_metadata", {})
    return {path: own["version"] for path, own in metadata.items() if "version" in own}


def _loadable(model: nn.Module, contents: Contents) -> dict[str, Tensor]:
    """The state dict as the cut network takes it, aliases and versions included."""
    state = OrderedDict(contents.tensors)
    for alias, original in named_aliases(_state(model)).items():
        state.setdefault(alias, state[original])
    versions = contents.versions or _versions(model)  # older files do not say
    metadata = {path: {"version": version} for path, version in versions.items()}
    setattr(state, "_metadata", metadata)  # noqa: B010 -- where load_state_dict looks for it
    return state


def _digest(tensors: Mapping[str, Tensor], plan: str) -> str:
    """SHA-256 over the plan, and names, types, shapes and bytes in the order of the names."""
    digest = hashlib.sha256(plan.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        head = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(head.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_atomically(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # it can be read by setting it only
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
