"""Weights alone, and the code of an allowed package to put them in: the way to full white-box audits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator
from pydantic import Field as Limited

from audit.model import AuditedModel, Capability, OutputSpace
from audit.parameters import NotApplicable, UserError
from audit.registry.importing import check_source, check_target, import_callable, one_line, source_digest
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._group_norm import with_group_norm
from audit.registry.loaders._shared import as_fed, audited, differentiable, one_tensor, only_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust

_SHOWN = 3


class StateDict(Loader):
    """A safetensors file or weights-only ``.pt``, loaded into the module that `factory` makes.

    The factory's package must be allowed (``audit model allow PACKAGE``). Every weight of the module must be in the file, in
    its shape, and the file may hold nothing else. The module runs in evaluation mode with parameter gradients off.

    A text comes as int64 code points ``(N, L)``, zeros after its end.
    """

    formats: ClassVar = ("safetensors", "torch_zip", "torch_legacy")

    factory: Annotated[str, AfterValidator(check_target)]
    """``package.module:function`` that returns the module; a class will do."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    group_norm: bool = False
    """The weights are of the factory's module with GroupNorm for each BatchNorm, as ``audit train`` makes it where asked."""
    key: str = ""
    """Of a ``.pt`` that holds a training checkpoint: the entry with the weights, such as ``state_dict``."""
    prefix: str = ""
    """Start of every weight's name to take off, such as ``module.``; entries without it are left out."""
    code: str | None = None
    """SHA-256 of the source file that defines the factory, taken at registration; another source is refused."""
    micro_batch: Annotated[int, Limited(ge=1)] = 512
    """Rows per forward pass."""

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """Gradients, layers and the factory to train anew, besides what the output space gives."""
        return differentiable(output, layers=True) | {Capability.RETRAIN}

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Torch classifiers end in logits unless said otherwise."""
        return Inferred(output="logit")

    def pinned(self, trust: Trust) -> Self:
        """With the digest of the factory's source."""
        if self.code is not None:
            return self
        return self.model_copy(update={"code": source_digest(import_callable(self.factory, trust))})

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Make the module, fill it, freeze it."""
        factory = import_callable(self.factory, trust)
        check_source(factory, self.code, self.factory, card.ref)
        weights = self._weights(only_file(files, card.loader), card.ref)
        module = self._made(factory)
        _fill(module, weights, card.ref)
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        dtype = input_dtype(module)

        def forward(x: Tensor) -> Tensor:
            return one_tensor(module(as_fed(x, dtype, card.spec)), card.ref)

        def fresh(seed: int) -> nn.Module:
            made = self._made(factory, seed)
            if _same(made, module):
                raise NotApplicable(
                    f"{card.ref}: factory '{self.factory}' makes the trained model itself: one to train anew starts untrained"
                )
            return made

        return audited(
            card, self.capabilities(card.output), forward, module=module, fresh=fresh, micro_batch=self.micro_batch
        )

    def _made(self, factory: Callable[..., Any], seed: int | None = None) -> nn.Module:
        """What the factory makes, in train mode; its initial weights by a seed where one is given."""
        import torch

        with torch.random.fork_rng(devices=[]):  # initial weights draw from the global generator
            if seed is not None:
                torch.manual_seed(seed)
            try:
                module = factory(**self.kwargs)
            except Exception as error:
                shown = ", ".join(f"{k}={v!r}" for k, v in self.kwargs.items())
                raise UserError(f"factory '{self.factory}({shown})' failed: {one_line(error)}") from error
        if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
            raise UserError(f"factory '{self.factory}' made a {type(module).__name__}, not an eager torch.nn.Module")
        return (with_group_norm(module) if self.group_norm else module).train()

    def _weights(self, path: Path, ref: str) -> dict[str, Tensor]:
        import torch

        with path.open("rb") as file:
            head = file.read(2)
        found = _read_torch(path, ref) if head in (b"PK", b"\x80\x02") else _read_safetensors(path, ref)
        if self.key:
            if not isinstance(found, Mapping) or not isinstance(found.get(self.key), Mapping):
                raise UserError(f"{ref}: the file has no entry '{self.key}' with weights; it has {_entries(found)}")
            found = found[self.key]
        if not isinstance(found, Mapping) or not found:
            raise UserError(f"{ref}: the file holds a {type(found).__name__}, not a state dict of named weights")
        named = {
            n.removeprefix(self.prefix): v for n, v in found.items() if isinstance(n, str) and n.startswith(self.prefix)
        }
        if not named:
            raise UserError(f"{ref}: no weight's name starts with '{self.prefix}'; the file has {_entries(found)}")
        if wrong := [n for n, v in named.items() if not isinstance(v, torch.Tensor)]:
            raise UserError(
                f"{ref}: the file is no plain state dict: '{wrong[0]}' is a {type(named[wrong[0]]).__name__}; if it is a "
                f"checkpoint, name the entry with the weights as parameter 'key'; it has {_entries(found)}"
            )
        return named


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same weights."""
    weights = one.state_dict()
    return all(bool((value == weights[name]).all()) for name, value in other.state_dict().items())


def _entries(found: Any) -> str:
    names = [str(name) for name in found] if isinstance(found, Mapping) else [type(found).__name__]
    return ", ".join(repr(n) for n in names[:6]) + (" …" if len(names) > 6 else "")


def _read_safetensors(path: Path, ref: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{ref}: the safetensors file is damaged: {one_line(error)}") from error


def _read_torch(path: Path, ref: str) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{ref}: the file holds more than tensors, and there is no way around weights_only=True here: save the "
            "model's state_dict(), best as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{ref}: the torch file is damaged: {one_line(error)}") from error


def _fill(module: nn.Module, weights: dict[str, Tensor], ref: str) -> None:
    """Load weights that match the module exactly.

    Raises:
        UserError: names, shapes or dtypes differ, or a weight is NaN or infinite.
    """
    import torch

    own = module.state_dict()
    missing = [name for name in own if name not in weights and not _tied_to_given(own, name, weights)]
    extra = [name for name in weights if name not in own]
    if missing or extra:
        parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("adds", extra)) if names]
        raise UserError(f"{ref}: the weights do not fit the factory's module: the file {' and '.join(parts)}")
    shapes = [
        f"{name} is {tuple(value.shape)}, the module wants {tuple(own[name].shape)}"
        for name, value in weights.items()
        if value.shape != own[name].shape
    ]
    if shapes:
        raise UserError(f"{ref}: the weights do not fit the factory's module: {_some(shapes, '; ')}")
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, value in weights.items():
        if torch.promote_types(value.dtype, own[name].dtype) != own[name].dtype:
            raise UserError(
                f"{ref}: weight {name} is {value.dtype}; the module's {own[name].dtype} would lose precision"
            )
        if value.is_floating_point() and (
            bool(value.isnan().any()) or (name in parameters and not bool(value.isfinite().all()))
        ):
            raise UserError(f"{ref}: weight {name} holds NaN or infinite values")
    module.load_state_dict(weights, strict=False)


def _tied_to_given(own: Mapping[str, Tensor], name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a weight shares its memory with one that the file holds: safetensors stores tied weights once."""
    tensor = own[name]
    return tensor.numel() > 0 and any(
        other.data_ptr() == tensor.data_ptr() and other.shape == tensor.shape and key in weights
        for key, other in own.items()
    )


def _some(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more


def input_dtype(module: nn.Module) -> Any:
    """The dtype that a module's input is cast to: that of its first floating-point weight, float32 without one."""
    import torch

    tensors = (*module.parameters(), *module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
