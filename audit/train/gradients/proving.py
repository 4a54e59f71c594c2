"""Whether a way to per-example gradients is right for a module: a proof by trial against single examples, on a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from audit.parameters import UserError
from audit.registry.loaders._group_norm import groups
from audit.train.clipping import Clipping, trained
from audit.train.gradients import GradientMode, Loss
from audit.train.gradients._without_chance import WithoutChance
from audit.train.gradients.loop import Loop

ROWS = 3
"""Different examples of a proof; larger batches repeat them."""
LARGEST_BATCH = 256
"""Fixed sizes beyond which no batch of that many rows is tried: a batch of `ROWS` shows the same fault, as an error."""
_TOLERANCE = 1e-3
_SCALE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class _Call:
    """One call of a layer: its name, the leading size of its first input (None without one) and its output."""

    layer: str
    leading: int | None
    output: Any


class Proof:
    """A module, a few of its rows, and each row's clipped gradient by itself.

    The copy's parameters are moved a little, so that layers that start at zero hide nothing, and dropout is off.

    Args:
        module: in training mode, as it will be trained; not touched.
        x, y: rows to prove with; the first `ROWS` are used.

    Raises:
        UserError: no gradient of this module belongs to one example: nothing is trained, a layer mixes the examples of a batch, or
            writes what it sees into a buffer, which no noise covers.
    """

    def __init__(self, module: nn.Module, loss: Loss, clipping: Clipping, x: Tensor, y: Tensor) -> None:
        if not trained(module):
            raise UserError("no parameter of the module is trained (requires_grad is off for all): nothing to learn")
        if not len(x):
            raise UserError("gradient modes are proven on rows of the training data, and there are none")
        self.module = copy.deepcopy(module).train()
        self.loss, self.clipping = loss, clipping
        self.x, self.y = x[:ROWS], y[:ROWS]
        self._refuse_batch_norm()
        self._move()
        with WithoutChance():
            self._refuse_losses()
            self._refuse_buffers()
            self._refuse_mixing()
            self.fixed = self._fixed_sizes()
            loop = Loop(self.module, loss, clipping)
            self.single = [loop.clipped_sum(x[i : i + 1], y[i : i + 1]) for i in range(len(self.x))]
            self._refuse_not_finite("gradient", torch.cat([single.norms for single in self.single]))
            again = loop.clipped_sum(self.x[:1], self.y[:1])
        self.provable = bool(torch.allclose(again.norms, self.single[0].norms, rtol=1e-4))
        """False where a layer draws random numbers that cannot be held still."""

    def fault(self, mode: type[GradientMode]) -> str | None:
        """Why this way is wrong for the module, in one line with the layer's name; None where it is right."""
        if not self.provable:
            return (
                "a layer draws random numbers of its own, so nothing can be proven; use dropout layers, or mode: loop"
            )
        sizes = {1, len(self.x), *(n for n in self.fixed.values() if n), *self.x.shape[1:2]}
        for n in sorted(size for size in sizes if size <= LARGEST_BATCH):
            if (wrong := self._wrong(mode, n)) is not None:
                return wrong
        return None

    def _wrong(self, mode: type[GradientMode], n: int) -> str | None:
        takes = torch.arange(n) % len(self.x)
        way = mode(self.module, self.loss, self.clipping)
        try:
            with WithoutChance():
                got = way.clipped_sum(self.x[takes.to(self.x.device)], self.y[takes.to(self.y.device)])
        except Exception as error:  # other people's code on other people's layers: whatever it raises rules it out
            return self.explained(error)
        finally:
            way.close()
        counts = torch.bincount(takes, minlength=len(self.x)).tolist()
        truth = [
            torch.stack([count * single.gradients[i] for count, single in zip(counts, self.single, strict=True)]).sum(0)
            for i in range(len(got.gradients))
        ]
        whole = float(torch.stack([t.norm() for t in truth]).norm())
        for (name, _), true, mine in zip(trained(self.module), truth, got.gradients, strict=True):
            off = float((true - mine).norm())
            if not off <= _TOLERANCE * float(true.norm()) + _SCALE_TOLERANCE * whole:
                return self._at(name.rpartition(".")[0], f"gives a wrong gradient without a word (batch of {n})")
        norms = torch.cat([single.norms for single in self.single])[takes.to(got.norms.device)]
        if got.norms.shape != norms.shape or not torch.allclose(got.norms, norms, rtol=_TOLERANCE, atol=1e-7):
            return f"measures wrong norms of the gradients (batch of {n})"
        return None

    def _at(self, layer: str, what: str) -> str:
        """The fault with its layer and the fix. A layer called without the batch spoils others: it is named first."""
        if self.fixed and layer not in self.fixed:
            layer = next(iter(self.fixed))
        called = (
            f"layer '{layer}' ({type(self.module.get_submodule(layer)).__name__})" if layer else "the module itself"
        )
        if layer in self.fixed:
            size = self.fixed[layer]
            reason = "gets no tensor" if size is None else f"gets an input of leading size {size} whatever the batch"
            return f"{what}: {called} {reason}; put the batch first, or take functorch"
        return f"{what}: at {called}"

    def explained(self, error: Exception) -> str:
        """An error in one line, with the layer it comes from where that shows."""
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        for name, layer in self.module.named_modules():
            if "inplace" in str(error) and getattr(layer, "inplace", False):
                return f"layer '{name}' ({type(layer).__name__}) works in place; set inplace=False, or take functorch"
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
                return f"fails at layer '{name}' ({type(layer).__name__}); convert the model, or take another mode ({said})"
        return self._at("", f"fails ({said})") if self.fixed else f"fails ({said})"

    def _refuse_batch_norm(self) -> None:
        for name, layer in self.module.named_modules():
            if isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats):
                raise UserError(
                    f"layer '{name}' ({type(layer).__name__}) mixes the examples of a batch, so that no gradient belongs to one of "
                    f"them: change the factory to nn.GroupNorm({groups(layer.num_features)}, {layer.num_features}), or let 'group_norm: "
                    "true' below dp do so"
                )

    def _move(self) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.02)

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self.loss(self.module(x), y)

    def _refuse_losses(self) -> None:
        losses = self._losses(self.x, self.y)
        self._refuse_not_finite("loss", losses)
        if losses.shape != (len(self.x),):
            raise UserError(
                f"the loss gives shape {tuple(losses.shape)} for {len(self.x)} rows; it must give one per row (reduction='none')"
            )

    def _refuse_not_finite(self, what: str, values: Tensor) -> None:
        if (bad := ~values.isfinite()).any():
            raise UserError(
                f"the {what} of a training row is {float(values[bad].flatten()[0])} before the first step: look for missing, infinite "
                "and unscaled values in the data, and in the module's own arithmetic"
            )

    def _refuse_buffers(self) -> None:
        before = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        self._losses(self.x, self.y)
        for name, buffer in self.module.named_buffers():
            if name in before and not torch.equal(buffer, before[name]):
                layer, _, attribute = name.rpartition(".")
                kind = type(self.module.get_submodule(layer)).__name__
                raise UserError(
                    f"layer '{layer}' ({kind}) writes what it sees into its buffer '{attribute}', which no noise covers; "
                    "keep it fixed in training, or replace the layer"
                )

    def _refuse_mixing(self) -> None:
        if len(self.x) < 2:
            return
        together = self._losses(self.x, self.y)
        alone = torch.cat([self._losses(self.x[i : i + 1], self.y[i : i + 1]) for i in range(len(self.x))])
        if torch.allclose(together, alone, rtol=_TOLERANCE, atol=1e-5):
            return
        if not torch.allclose(together, self._losses(self.x, self.y), rtol=1e-4):
            return  # chance that cannot be held still
        layer = self._first_mixing()
        found = self.module.get_submodule(layer)
        called = f"layer '{layer}' ({type(found).__name__})" if layer else "the module"
        fix = "replace it by a layer that looks at one row at a time"
        if getattr(found, "batch_first", True) is False:
            fix = (
                "it takes its first dimension for the sequence: make it with batch_first=True, or turn its input about"
            )
        raise UserError(
            f"{called} mixes the examples of a batch: a row's output depends on the others, so that no gradient belongs to one of "
            f"them; {fix}"
        )

    def _first_mixing(self) -> str:
        """By the last row: of a batch taken for a sequence the first one sees no other."""
        for a, b in zip(self._calls(self.x), self._calls(self.x[-1:]), strict=False):
            together, alone = _first_tensor(a.output), _first_tensor(b.output)
            if together is None or alone is None:
                continue
            comparable = alone.shape[:1] == (1,) and together.shape[1:] == alone.shape[1:]
            if comparable and not torch.allclose(together[-1:], alone, rtol=_TOLERANCE, atol=1e-5):
                return a.layer
        return ""

    def _fixed_sizes(self) -> Mapping[str, int | None]:
        """Trained layers whose input does not lead with the batch, and the size it leads with instead."""
        owners = {name.rpartition(".")[0] for name, _ in trained(self.module)}
        sizes: list[dict[str, int | None]] = []
        for n in (ROWS, ROWS + 1):
            takes = torch.arange(n, device=self.x.device) % len(self.x)
            sizes.append({call.layer: call.leading for call in self._calls(self.x[takes])})
        return {name: size for name, size in sizes[0].items() if name in owners - {""} and sizes[1].get(name) == size}

    def _calls(self, x: Tensor) -> Sequence[_Call]:
        """Every call of a layer, the innermost first."""
        seen: list[_Call] = []

        def note(name: str, args: tuple[Any, ...], output: Any) -> None:
            first = next((a for a in args if isinstance(a, Tensor)), None)
            seen.append(_Call(name, len(first) if first is not None and first.dim() else None, output))

        hooks = [
            layer.register_forward_hook(lambda _, args, output, name=name: note(name, args, output))
            for name, layer in self.module.named_modules()
        ]
        try:
            with torch.no_grad():
                self.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def _first_tensor(output: Any) -> Tensor | None:
    """What a layer answers with; of a recurrent layer its outputs, without the state."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None
