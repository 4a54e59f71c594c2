"""Programs exported with ``torch.export``: differentiable, but with no layers to hook."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field as Limited

from audit.model import AuditedModel, Capability, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._batch_size import any_batch_size
from audit.registry.loaders._shared import audited, differentiable, one_tensor, only_file

if TYPE_CHECKING:
    from torch import Tensor

    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust


class TorchExport(Loader):
    """A ``.pt2`` file, whose digest must be trusted: ``torch.export.load`` can be made to run code.

    Best exported in evaluation mode with a dynamic batch dimension; a fixed one is filled up, which costs time. An exported
    program has no ``eval()``, so registration compares answers: to the same input twice, and to a row alone and among others.
    """

    formats: ClassVar = ("torch_export",)
    fixed_mode: ClassVar = True

    micro_batch: Annotated[int, Limited(ge=1)] = 512
    """Rows per forward pass."""

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """Gradients, besides what the output space gives."""
        return differentiable(output, layers=False)

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Torch classifiers end in logits unless said otherwise."""
        return Inferred(output="logit")

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Open the program and take its guards on the batch size into account."""
        import torch

        path = only_file(files, card.loader)
        require_trusted(card, trust)
        try:
            with path.open("rb") as file:
                program = torch.export.load(file)
            module = program.module()
        except Exception as error:
            raise UserError(f"{card.ref}: torch cannot open the exported program: {one_line(error)}") from error
        example = _only_input(program, card.ref)
        if tuple(s for s in example.shape[1:] if isinstance(s, int)) != card.spec.shape:
            shown = "×".join(str(s) for s in example.shape[1:])
            raise UserError(
                f"{card.ref}: the program takes inputs of shape ({shown}), the input spec says {card.spec.shape}"
            )
        for parameter in module.parameters():
            parameter.requires_grad_(False)

        def run(x: Tensor) -> Tensor:
            return one_tensor(module(x.to(example.dtype)), card.ref)

        return audited(
            card,
            self.capabilities(card.output),
            any_batch_size(run, *_batch_range(program, example)),
            micro_batch=self.micro_batch,
        )


def require_trusted(card: ModelCard, trust: Trust) -> None:
    """Refuse a format that can run code, whoever calls the loader.

    Raises:
        UserError: the digest of a file of the card is not trusted.
    """
    for name, sha256 in card.files.items():
        if not trust.is_trusted(sha256):
            raise UserError(
                f"{card.ref}: opening {name} can run code, and its digest is not trusted: if you know who made it and trust "
                f"them, run `audit model trust {sha256}`"
            )


def _only_input(program: Any, ref: str) -> Any:
    """The example value of a program's single input."""
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise UserError(f"{ref}: the program takes {len(names)} inputs; an audit feeds one tensor")
    example = next(n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name == names[0])
    if not getattr(example, "shape", ()):
        raise UserError(f"{ref}: the program's input has no batch dimension")
    return example


def _batch_range(program: Any, example: Any) -> tuple[int, int | None]:
    """Smallest and largest batch that the program was exported for."""
    batch = example.shape[0]
    if isinstance(batch, int):
        return batch, batch
    allowed = program.range_constraints.get(batch.node.expr)
    if allowed is None:
        return 1, None
    largest = int(allowed.upper) if getattr(allowed.upper, "is_number", False) and allowed.upper < 2**31 else None
    return max(1, int(allowed.lower)), largest
