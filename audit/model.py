"""What is under audit: a model behind one interface, whatever it was made with.

Inputs are tensors of the input spec's shape, in the units that the user feeds; preprocessing is inside the model. A table is one
float tensor ``(N, F)``: numbers as they are, categories as codes (their index in the field's `categories`), missing as NaN. A text is a
row of code points, as in `audit.text`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import model_validator

from audit.parameters import Parameters, Real, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from audit.data import Batch
    from audit.recipe import Recipe

T = TypeVar("T")
M = TypeVar("M", bound="AuditedModel")
Task = Literal["classification", "regression"]
OutputSpace = Literal["logit", "margin", "probability", "label", "value", "tokens"]
REMEMBERED_BYTES = 1 << 26
"""Of what checks share about a model (explanations), beside its outputs."""
FieldKind = Literal["image", "number", "category", "text", "tokens", "series", "id"]


class Capability(StrEnum):
    """What a check may need of a model or its data."""

    GRADIENTS = "gradients"
    """Differentiable from input to output."""
    LAYERS = "layers"
    """Named submodules that hooks can reach (eager modules only)."""
    LOGITS = "logits"
    """Unnormalised scores, or a margin."""
    PROBABILITIES = "probabilities"
    """Scores that rank classes; implied by LOGITS."""
    LABELS = "labels"
    """A predicted class; implied by PROBABILITIES."""
    VALUES = "values"
    """A predicted number (regression)."""
    EMBEDDINGS = "embeddings"
    """Token embeddings in and out."""
    TRAIN_DATA = "train_data"
    """The data holds the rows the model was trained on."""
    RETRAIN = "retrain"
    """The model can be trained again from its factory."""


class Field(Parameters):
    """One input field."""

    name: str
    kind: FieldKind
    shape: tuple[int, ...] = ()
    """Without the batch: ``(C, H, W)`` for an image, ``(L,)`` for a text of at most L characters, ``()`` for a column of a table."""
    bounds: tuple[Real, Real] | None = None
    """Smallest and largest valid value, in the units that the user feeds."""
    units: str = ""
    categories: tuple[str, ...] = ()
    """Of a category: its values, in the order of their codes."""

    @model_validator(mode="after")
    def _text_has_a_length(self) -> Field:
        if self.kind == "text" and (len(self.shape) != 1 or self.shape[0] < 1):
            raise ValueError(
                f"text '{self.name}' needs a shape (L,), the characters there is room for; got {self.shape}"
            )
        return self

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Field:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds of field '{self.name}' must be (low, high) with low < high, got {self.bounds}")
        return self


class InputSpec(Parameters):
    """What the model is fed: one field (an image, a series), or the columns of a table."""

    fields: tuple[Field, ...]
    preprocessing: str = ""
    """What the model does to its input before the first layer, in words; it is part of the model under audit."""

    @model_validator(mode="after")
    def _fields_fit(self) -> InputSpec:
        names = [field.name for field in self.fields]
        if not names:
            raise ValueError("an input spec needs at least one field")
        if len(set(names)) < len(names):
            raise ValueError(f"field names must be unique, got {names}")
        if len(self.fields) > 1 and any(field.shape for field in self.fields):
            raise ValueError("fields of a table are single columns: leave their shape out")
        return self

    @property
    def tabular(self) -> bool:
        """Whether the input is columns of a table."""
        return not self.fields[0].shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return (len(self.fields),) if self.tabular else self.fields[0].shape

    @property
    def kind(self) -> FieldKind | Literal["table"]:
        """The kind of the single field, or ``table``."""
        return "table" if self.tabular else self.fields[0].kind

    @property
    def a_kind(self) -> str:
        """The kind with its article: ``an image``."""
        return self.kind if self.kind == "tokens" else f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Bounds shared by the whole input; None where there are none or columns differ."""
        found = {field.bounds for field in self.fields}
        return found.pop() if len(found) == 1 else None

    @property
    def units(self) -> str:
        """Units shared by the whole input."""
        found = {field.units for field in self.fields}
        return found.pop() if len(found) == 1 else ""


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on an accelerator."""
    import torch

    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in text for sign in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _through(module: nn.Module, model: AuditedModel, x: Tensor) -> Tensor:
    """The model's answer with another module in place of its own."""
    original = model.module
    assert original is not None
    before = original.__dict__.get("forward")
    original.__dict__["forward"] = module
    try:
        return model._forward(x)
    finally:
        del original.__dict__["forward"]
        if before is not None:
            original.__dict__["forward"] = before


@dataclass(frozen=True)
class Tokens:
    """Texts as a model reads them.

    Args:
        ids: ``(N, T)`` int64, padded.
        mask: ``(N, T)`` bool: not padding.
        special: ``(N, T)`` bool: put there by the tokenizer (start, separator); it has no characters.
        start, stop: ``(N, T)`` int64 characters of each token in the row of code points; equal where it has none.
    """

    ids: Tensor
    mask: Tensor
    special: Tensor
    start: Tensor
    stop: Tensor


class TokenModel(Protocol):
    """The inside of a model that reads texts token by token."""

    @property
    def neutral(self) -> int:
        """The token that stands for nothing: mask, else unknown, else padding."""

    def tokens(self, x: Tensor) -> Tokens:
        """``(N, L)`` code points as tokens."""

    def embed(self, ids: Tensor) -> Tensor:
        """``(N, T)`` tokens as word embeddings ``(N, T, E)``, before positions are added."""

    def from_embeddings(self, embeddings: Tensor, tokens: Tokens) -> Tensor:
        """Scores in the model's output space, ``(N, C)`` or ``(N,)``, differentiable in the embeddings."""

    def attentions(self, tokens: Tokens) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Scores, and each layer's attention ``(N, heads, T, T)`` that they were computed from (rows attend to columns, and add up
        to 1), so that the scores can be differentiated with respect to it."""

    def with_module(self, module: nn.Module) -> TokenModel:
        """The same around another module of the same shape."""


class NonFiniteOutput(ArithmeticError):
    """The model answered NaN or infinite; every check on such rows is an error."""


def implied(output: OutputSpace, *, gradients: bool, layers: bool) -> frozenset[Capability]:
    """The capabilities that follow from an output space and from being differentiable, with layers to hook or not."""
    by_output: dict[str, set[Capability]] = {
        "logit": {Capability.LOGITS, Capability.PROBABILITIES, Capability.LABELS},
        "margin": {Capability.LOGITS, Capability.PROBABILITIES, Capability.LABELS},
        "probability": {Capability.PROBABILITIES, Capability.LABELS},
        "label": {Capability.LABELS},
        "value": {Capability.VALUES},
        "tokens": set(),
    }
    found = by_output[output]
    if gradients:
        found = found | {Capability.GRADIENTS}
    if layers:
        found = found | {Capability.LAYERS}
    return frozenset(found)


class AuditedModel:
    """A loaded model.

    Args:
        forward: ``(N, *spec.shape)`` tensor of `input_dtype` → ``(N, C)`` scores in `output` space (``(N,)`` for label and value,
            ``(N,)`` or ``(N, 1)`` for a margin, positive for class 1). Differentiable where GRADIENTS is among the capabilities.
        module: the eager torch module behind `forward`, where there is one (LAYERS); in eval mode, parameter gradients off.
        native: the object of the model's own library (a scikit-learn estimator, a booster), where there is one.
        fresh: from a seed, the same model untrained (RETRAIN): a torch module in train mode, or an estimator by scikit-learn's
            conventions, to `fit` on rows ``(N, F)`` and class indices.
        micro_batch: rows per forward pass; fixed, for the floats depend on it.
    """

    def __init__(
        self,
        *,
        name: str,
        digest: str,
        task: Task,
        classes: tuple[str, ...],
        spec: InputSpec,
        output: OutputSpace,
        capabilities: frozenset[Capability],
        forward: Callable[[Tensor], Tensor],
        module: nn.Module | None = None,
        native: Any = None,
        fresh: Callable[[int], Any] | None = None,
        micro_batch: int = 512,
        device: str = "cpu",
    ) -> None:
        if task == "classification" and len(classes) < 2:
            raise UserError(f"model '{name}': a classifier needs at least two classes, got {len(classes)}")
        self.name, self.digest, self.task, self.classes = name, digest, task, classes
        self.spec, self.output, self.fresh = spec, output, fresh
        self.capabilities = capabilities if fresh is None else capabilities | {Capability.RETRAIN}
        self.module, self.native, self.micro_batch, self.device = module, native, micro_batch, device
        self._forward = forward
        self.text: TokenModel | None = None
        """The inside of a model that reads texts token by token (EMBEDDINGS)."""
        self.ledger: str | None = None
        """The privacy ledger of its training (`audit.privacy.accounting.TrainingRecord` as JSON), where the registry keeps one."""
        self.recipe: Recipe | None = None
        """How it was trained, where the registry knows."""
        self.files: dict[str, Path] = {}
        """What it was loaded from, by the names that it has there, where the registry keeps it."""
        self._outputs: dict[str, Tensor] = {}
        self._remembered: dict[str, tuple[int, Any]] = {}
        self.rows_forward = 0
        """Rows that went through the model so far: the true query count."""
        self.rows_backward = 0
        """Rows that went through with gradients on."""

    def with_module(self, module: nn.Module) -> AuditedModel:
        """This model with another module in place of its own; whatever the model does around that stays.

        The copy counts its own rows. The module is meant to have the shape of the original: a deep copy with other weights.

        Raises:
            UserError: there is no module (LAYERS).
        """
        if self.module is None:
            raise UserError(f"model '{self.name}' has no torch module to put another in the place of")
        return self.variant(
            AuditedModel,
            module=module,
            text=self.text.with_module(module) if self.text is not None else None,
            _forward=lambda x: _through(module, self, x),
        )

    def variant(self, kind: type[M], **changes: Any) -> M:
        """This model as one of another class, which answers in another way; it counts its own rows and remembers nothing.

        Args:
            changes: attributes that differ.
        """
        other = object.__new__(kind)
        other.__dict__.update(self.__dict__, rows_forward=0, rows_backward=0, _outputs={}, _remembered={})
        other.__dict__.update(changes)
        return other

    def remembered(self, key: str, size: int, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once for a key and shared by every check while it fits in memory.

        Args:
            size: bytes that the answer takes; at most `REMEMBERED_BYTES` are held in all.
        """
        if key in self._remembered:
            return self._remembered[key][1]  # type: ignore[no-any-return]
        found = compute()
        if size + sum(held for held, _ in self._remembered.values()) <= REMEMBERED_BYTES:
            self._remembered[key] = (size, found)
        return found

    def scores(self, x: Tensor) -> Tensor:
        """The model's own answers in `output` space, without gradients, in micro-batches: ``(N, C)`` or ``(N,)``."""
        import torch

        with torch.no_grad():
            return torch.cat(self.in_parts(x, self._call)) if len(x) else x.new_zeros((0,))

    def in_parts(self, x: Tensor, call: Callable[[Tensor], T]) -> list[T]:
        """`call` on rows of `x`, a micro-batch at a time.

        One that does not fit in memory is halved, and so are those after it; a single row that does not fit raises.
        """
        answers: list[T] = []
        start = 0
        while start < len(x):
            part = x[start : start + self.micro_batch]
            try:
                answers.append(call(part))
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not _out_of_memory(error):
                    raise
                self.micro_batch = len(part) // 2
            else:
                start += len(part)
        return answers

    def _call(self, x: Tensor) -> Tensor:
        self.rows_forward += len(x)
        answer = self._forward(x)
        if len(answer) != len(x):
            raise UserError(
                f"model '{self.name}' answered {len(answer)} rows to {len(x)}: it must keep the batch dimension first"
            )
        return answer

    def logits(self, x: Tensor) -> Tensor:
        """Scores whose softmax are the probabilities, ``(N, C)``; differentiable where the model is.

        A margin m becomes ``(0, m)``, probabilities their logarithm (floored at the smallest positive float).

        Raises:
            UserError: the model gives labels or values only.
        """
        import torch

        if torch.is_grad_enabled() and x.requires_grad:
            self.rows_backward += len(x)
        answer = self._call(x)
        if self.output == "logit":
            return answer
        if self.output == "margin":
            margin = answer.reshape(len(x))
            return torch.stack([torch.zeros_like(margin), margin], dim=1)
        if self.output == "probability":
            return answer.clamp_min(torch.finfo(answer.dtype).tiny).log()
        raise UserError(f"model '{self.name}' gives a {self.output}, not scores")

    def target_score(self, x: Tensor, target: Tensor) -> Tensor:
        """What the model says for each row's `target` class, ``(N,)`` in `output` space: the number that attributions explain.

        The target's logit or probability; a margin, signed to speak for the target; 1 where a label is the target, else 0; the
        value of a regression. One pass, differentiable where the model is.

        Raises:
            UserError: the model gives tokens.
        """
        import torch

        if torch.is_grad_enabled() and x.requires_grad:
            self.rows_backward += len(x)
        return self.target_of(self._call(x), target)

    def target_of(self, answer: Tensor, target: Tensor) -> Tensor:
        """As `target_score`, of an answer ``(N, C)`` or ``(N,)`` that the model has given."""
        import torch

        if self.output == "tokens":
            raise UserError(f"model '{self.name}' gives tokens, not a score to explain")
        target = target.to(answer.device)
        if self.output in ("logit", "probability"):
            return answer.gather(1, target[:, None]).squeeze(1)
        flat = answer.reshape(len(target))
        if self.output == "margin":
            return flat * (2 * target - 1)
        return (flat.to(torch.int64) == target).to(torch.get_default_dtype()) if self.output == "label" else flat

    def probabilities_of(self, scores: Tensor) -> Tensor:
        """Probabilities ``(N, C)`` from `scores` in output space."""
        import torch

        if self.output == "logit":
            return scores.double().softmax(dim=1)
        if self.output == "margin":
            p = scores.double().reshape(-1).sigmoid()
            return torch.stack([1 - p, p], dim=1)
        if self.output == "probability":
            return scores.double()
        raise UserError(f"model '{self.name}' gives a {self.output}, not probabilities")

    def confidence_of(self, scores: Tensor) -> Tensor | None:
        """Probability of the predicted class ``(N,)`` float64 from `scores` in output space; None of a model that gives none."""
        known = self.task == "classification" and self.output in ("logit", "margin", "probability")
        return self.probabilities_of(scores).amax(dim=1) if known else None

    def labels_of(self, scores: Tensor) -> Tensor:
        """Predicted class indices ``(N,)`` int64 from `scores` in output space.

        Raises:
            NonFiniteOutput: a score is NaN or infinite.
        """
        import torch

        self.check_finite(scores)
        if self.output in ("logit", "probability"):
            return scores.argmax(dim=1)
        if self.output == "margin":
            return (scores.reshape(-1) > 0).long()
        if self.output == "label":
            return scores.reshape(-1).to(torch.int64)
        raise UserError(f"model '{self.name}' gives a {self.output}, not classes")

    def check_finite(self, scores: Tensor) -> None:
        """Raise `NonFiniteOutput`, with the first row at fault, where a score is NaN or infinite."""
        bad = ~scores.reshape(len(scores), -1).isfinite().all(dim=1) if len(scores) else scores.new_zeros(0).bool()
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise NonFiniteOutput(
                f"model '{self.name}' answers NaN or infinite for {int(bad.sum())} of {len(scores)} rows, first row {row}"
            )

    def predict(self, x: Tensor) -> Tensor:
        """Predicted class indices ``(N,)`` int64, or values ``(N,)`` of a regression."""
        scores = self.scores(x)
        if self.task == "regression":
            self.check_finite(scores)
            return scores.reshape(len(x))
        return self.labels_of(scores)

    def outputs(self, batch: Batch) -> Tensor:
        """`scores` of a whole batch, computed once a run and shared by every check."""
        import torch

        if batch.digest not in self._outputs:
            with torch.random.fork_rng(
                devices=[]
            ):  # a randomised model gives the same answers whichever check asks first
                torch.manual_seed(int(batch.digest[:15], 16))
                self._outputs[batch.digest] = self.scores(self.tensor(batch))
        return self._outputs[batch.digest]

    def correct(self, batch: Batch) -> Tensor:
        """Which rows of a labelled batch the model gets right, ``(N,)`` bool."""
        import torch

        return self.labels_of(self.outputs(batch)) == torch.as_tensor(batch.labels)

    @property
    def input_dtype(self) -> torch.dtype:
        """Of the tensors it is fed: int32 of a text, float64 of a table that no torch module takes, else float32."""
        import torch

        if self.spec.kind == "text":
            return torch.int32
        return torch.float64 if self.spec.tabular and self.module is None else torch.float32

    def tensor(self, batch: Batch) -> Tensor:
        """A batch's inputs as the tensor this model is fed, ``(N, *spec.shape)`` of `input_dtype`."""
        import torch

        return torch.from_numpy(batch.x).to(self.input_dtype).to(self.device)
