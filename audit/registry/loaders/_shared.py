"""What several loaders need: the one file of a card, the audited model around a forward pass, columns by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.model import AuditedModel, Capability, InputSpec, OutputSpace, implied
from audit.parameters import UserError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from audit.registry.card import ModelCard


def only_file(files: Mapping[str, Path], loader: str) -> Path:
    """The single file that a model of this format consists of.

    Raises:
        UserError: there is none, or more than one.
    """
    if len(files) != 1:
        raise UserError(f"loader '{loader}' opens one file, got {len(files)}")
    return next(iter(files.values()))


def black_box(output: OutputSpace) -> frozenset[Capability]:
    """Capabilities of a model that is only asked: no gradients, no layers."""
    return implied(output, gradients=False, layers=False)


def differentiable(output: OutputSpace, *, layers: bool) -> frozenset[Capability]:
    """Capabilities of a torch model; a label has no gradient."""
    return implied(output, gradients=output != "label", layers=layers)


def reachable(capabilities: frozenset[Capability], spec: InputSpec) -> frozenset[Capability]:
    """What is left of the capabilities for such an input: whole numbers, as a text is made of, have no gradient."""
    return capabilities - {Capability.GRADIENTS} if spec.kind == "text" else capabilities


def as_fed(x: Tensor, dtype: torch.dtype, spec: InputSpec) -> Tensor:
    """An input as a torch model takes it: numbers in its own dtype, a text as int64 code points, for embeddings and one-hot."""
    return x.long() if spec.kind == "text" else x.to(dtype)


def audited(
    card: ModelCard,
    capabilities: frozenset[Capability],
    forward: Callable[[Tensor], Tensor],
    *,
    module: nn.Module | None = None,
    native: Any = None,
    fresh: Callable[[int], Any] | None = None,
    micro_batch: int = 512,
) -> AuditedModel:
    """A card's audited model around a forward pass."""
    return AuditedModel(
        name=card.ref,
        digest=card.digest,
        task=card.task,
        classes=card.classes,
        spec=card.spec,
        output=card.output,
        capabilities=reachable(capabilities, card.spec),
        forward=forward,
        module=module,
        native=native,
        fresh=fresh,
        micro_batch=micro_batch,
    )


def through_numpy(answer: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Tensor], Tensor]:
    """A forward pass from a function on arrays; its answers come back as float64."""
    import numpy as np
    import torch

    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(np.array(answer(x.detach().cpu().numpy()), dtype=np.float64))

    return forward


def one_tensor(answer: Any, ref: str) -> Tensor:
    """A torch model's answer, which must be one tensor.

    Raises:
        UserError: it is a tuple, a dictionary …
    """
    import torch

    if not isinstance(answer, torch.Tensor):
        raise UserError(
            f"{ref}: the model answers a {type(answer).__name__}, an audit needs one tensor: wrap it so that it returns its scores"
        )
    return answer


def column_order(wanted: Sequence[str], spec: InputSpec, ref: str) -> list[int]:
    """For each column that a file was trained with, its place in the input spec.

    Raises:
        UserError: the names differ.
    """
    own = [field.name for field in spec.fields]
    missing, extra = [n for n in wanted if n not in own], [n for n in own if n not in wanted]
    if missing or extra:
        said = " and ".join(
            f"{text} {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
            for text, names in (("lacks", missing), ("adds", extra))
            if names
        )
        raise UserError(f"{ref}: the file was trained on {len(wanted)} named columns; the input spec {said}")
    return [own.index(name) for name in wanted]


def feature_count(wanted: int, spec: InputSpec, ref: str) -> None:
    """Compare the number of input values with what the file was trained on.

    Raises:
        UserError: they differ.
    """
    import math

    if math.prod(spec.shape) != wanted:
        raise UserError(f"{ref}: the file takes {wanted} features, the input spec has {math.prod(spec.shape)}")


def class_count(found: int, card: ModelCard) -> None:
    """Compare the number of classes with what the file was trained on.

    Raises:
        UserError: they differ.
    """
    if found != len(card.classes):
        raise UserError(f"{card.ref}: the file tells {found} classes apart, {len(card.classes)} were declared")


def unsupported(card: ModelCard, what: str, offered: Sequence[str]) -> UserError:
    """The one line for an output space that a file cannot answer in."""
    return UserError(f"{card.ref}: {what} does not give output '{card.output}'; it gives {', '.join(offered)}")
