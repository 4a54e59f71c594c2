"""The parts of a training, from what its file names: module, rows, loss, way to the gradients, optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audit.data import AuditData, Batch
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders._group_norm import with_group_norm
from audit.registry.loaders.state_dict import input_dtype
from audit.train.clipping import Clipping, trained
from audit.train.gradients import GradientMode, Loss
from audit.train.gradients.choosing import choose, fitting
from audit.train.gradients.converting import converted
from audit.train.loop import Plain
from audit.train.training_file import Training

if TYPE_CHECKING:
    from audit.model import InputSpec


def made(training: Training, factory: Callable[..., Any]) -> nn.Module:
    """The module that is released in the end, untrained.

    Raises:
        UserError: the factory fails, or makes nothing that can be trained.
    """
    try:
        module = factory(**training.kwargs)
    except Exception as error:  # someone else's code may raise anything
        raise UserError(f"factory '{training.factory}' failed: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"factory '{training.factory}' made a {type(module).__name__}, not a torch.nn.Module")
    if not trained(module):
        raise UserError(f"factory '{training.factory}' made a module without parameters to train")
    return with_group_norm(module) if training.dp is not None and training.dp.group_norm else module


def in_training(training: Training, module: nn.Module) -> tuple[nn.Module, list[str]]:
    """The module that is trained in its place, with the same outputs, and what is different about it, one line each."""
    if training.dp is None or not training.dp.convert:
        return module, []
    other, said = converted(module)
    return (other, said) if said else (module, [])


def inputs(module: nn.Module, rows: Batch, spec: InputSpec) -> Tensor:
    """Rows as the module takes them: numbers in its own type, texts as int64 code points."""
    x = torch.from_numpy(rows.x)
    return x.long() if spec.kind == "text" else x.to(input_dtype(module))


def targets(rows: Batch, data: AuditData, training: Training) -> Tensor:
    """Labels as the loss takes them.

    Raises:
        UserError: the loss is for labels of another kind.
    """
    if bool(data.classes) != (training.loss == "cross_entropy"):
        kind = "classes: use loss cross_entropy" if data.classes else "numbers: use loss mse"
        raise UserError(f"loss {training.loss} does not fit data '{data.source}', whose labels are {kind}")
    y = torch.from_numpy(rows.labels)
    return y.long() if data.classes else y.float()


def losses(training: Training) -> Loss:
    """The file's loss, one value per row."""
    if training.loss == "mse":
        return lambda answers, y: (answers.reshape(len(y)) - y).square()
    return lambda answers, y: functional.cross_entropy(answers, y, reduction="none")


def require_answers(module: nn.Module, x: Tensor, data: AuditData, training: Training) -> None:
    """Refuse a module that does not answer these rows, before a step is spent on it.

    Raises:
        UserError: it fails on them, or answers in another shape.
    """
    module.eval()
    try:
        with torch.no_grad():
            answer = module(x[:2])
    except Exception as error:  # someone else's code may raise anything
        raise UserError(
            f"the module of '{training.factory}' does not take data '{data.source}': {one_line(error)}"
        ) from error
    n, width = len(x[:2]), len(data.classes) or 1
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else None
    if shape != (n, width) and (data.classes or shape != (n,)):
        got = f"shape {shape}" if shape is not None else f"a {type(answer).__name__}"
        raise UserError(f"the module of '{training.factory}' answers two rows in {got}, not {(n, width)}")


def gradient_mode(training: Training, module: nn.Module, x: Tensor, y: Tensor) -> GradientMode:
    """The way to the clipped sums of a step, proven right for the module and within the memory allowed.

    Raises:
        UserError: no row of this module has a gradient of its own, or no way to it is right and fits; names the layer.
    """
    loss, few = losses(training), min(training.batch, training.micro_batch)
    if (dp := training.dp) is not None:
        clipping = Clipping(dp.clipping, dp.clipping_norm)
        return choose(module, loss, clipping, x[:few], y[:few], dp.gradients, training.memory_limit)
    plain = Plain(module, loss, Clipping())
    if training.memory_limit is not None:
        with torch.random.fork_rng(devices=[]):
            buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
            plain.rows, _ = fitting(plain, x[:few], y[:few], training.memory_limit)
            module.load_state_dict(buffers, strict=False)  # batch normalisation has seen rows that no step took
    return plain
