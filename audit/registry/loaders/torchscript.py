"""TorchScript archives: differentiable, but with no layers to hook."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field as Limited

from audit.model import AuditedModel, Capability, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._shared import as_fed, audited, differentiable, one_tensor, only_file
from audit.registry.loaders.state_dict import input_dtype
from audit.registry.loaders.torch_export import require_trusted

if TYPE_CHECKING:
    from torch import Tensor

    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust


class Torchscript(Loader):
    """A TorchScript file, whose digest must be trusted: it is code.

    Put into evaluation mode; where tracing or freezing has fixed training mode, registration sees it in the answers.
    """

    formats: ClassVar = ("torchscript",)
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
        """Open the archive on the CPU and freeze it."""
        import torch

        path = only_file(files, card.loader)
        require_trusted(card, trust)
        try:
            with warnings.catch_warnings(), path.open("rb") as file:
                warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
                module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:
            raise UserError(f"{card.ref}: torch cannot open the TorchScript archive: {one_line(error)}") from error
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        dtype = input_dtype(module)

        def forward(x: Tensor) -> Tensor:
            return one_tensor(module(as_fed(x, dtype, card.spec)), card.ref)

        return audited(card, self.capabilities(card.output), forward, micro_batch=self.micro_batch)
