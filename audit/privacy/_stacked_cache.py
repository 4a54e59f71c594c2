"""Stacks that were trained, and one under training, on disk: weights and the optimiser's state, no rows of data.

A file is written beside its place and moved there whole, so a kill leaves the last one; one whose content is not what was written
is as good as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from audit.parameters import UserError
from audit.whole_file import write_whole

_ABOUT, _CHECK = "about", "blake2b"


@dataclass(frozen=True)
class Entry:
    """Tensors by name, and what JSON can say about them."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


class StackCache:
    """The files of one set of shadow models.

    Args:
        folder: named by all that determines them; made where it is missing.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"no place for shadow models in {folder}: {error.strerror}") from error

    def read(self, name: str) -> Entry | None:
        """What was written under a name; None where there is nothing, or it is damaged."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                said = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = json.loads(said[_ABOUT])
            return Entry(tensors, about) if said[_CHECK] == _digest(tensors, said[_ABOUT]) else None
        except (OSError, SafetensorError, ValueError, KeyError):
            return None

    def write(self, name: str, entry: Entry) -> None:
        """Put an entry in the place of the last one under its name.

        Raises:
            UserError: the disk is full, or may not be written to.
        """
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in entry.tensors.items()}
        about = json.dumps(entry.about)
        try:
            write_whole(self._path(name), save(tensors, {_ABOUT: about, _CHECK: _digest(tensors, about)}), shared=True)
        except OSError as error:
            raise UserError(f"shadow models could not be written to {error.filename}: {error.strerror}") from error

    def drop(self, name: str) -> None:
        """Forget an entry."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _digest(tensors: Mapping[str, Tensor], about: str) -> str:
    found = hashlib.blake2b(about.encode(), digest_size=20)
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(as_bytes(tensors[name]))
    return found.hexdigest()


def as_bytes(tensor: Tensor) -> Any:
    """A tensor's content, to be hashed."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def pack(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name and plain values by place and name."""
    tensors, plain = dict[str, Tensor](), dict[str, Any]()
    for place, values in optimiser.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{place}.{key}"] = value
            else:
                plain.setdefault(str(place), {})[key] = value
    return tensors, plain


def unpack(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Put what `pack` gave into an optimiser of the same parameters."""
    state: dict[int, dict[str, Any]] = {int(place): dict(values) for place, values in plain.items()}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            place, _, key = rest.partition(".")
            state.setdefault(int(place), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
