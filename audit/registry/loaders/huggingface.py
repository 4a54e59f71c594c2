"""Text classifiers in the folder format of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field as Limited

from audit.model import AuditedModel, Capability, Field, InputSpec, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._huggingface_folder import (
    COMPANIONS,
    CONFIG,
    LOCAL,
    WEIGHTS,
    configuration,
    folder_files,
    laid_out,
    library,
    quiet,
)
from audit.registry.loaders._shared import audited, class_count, differentiable, unsupported

if TYPE_CHECKING:
    from audit.registry.card import ModelCard
    from audit.registry.loaders._huggingface_tokens import TokenClassifier
    from audit.registry.trust import Trust

_LENGTH = 512
"""Characters there is room for, unless a shape says otherwise; tokens, where neither tokenizer nor model knows a most."""
_UNLIMITED = 1 << 20
"""A tokenizer's longest text from here on means that it knows no longest."""


class Huggingface(Loader):
    """A folder that ``save_pretrained`` of a sequence classifier and of its tokenizer wrote (package ``transformers``).

    ``config.json``, ``model.safetensors`` and the tokenizer's files are taken, and nothing else: no Python file is ever read, a
    configuration that names one (``auto_map``) is refused, pickled weights are too, and nothing is downloaded. Weights run as
    float32 with eager attention, in evaluation mode with parameter gradients off.

    A text comes as code points; the tokenizer is part of the model. What is longer than the model can read is cut off, as its own
    tokenizer does it. Classes come from ``id2label``; a single output is a regression.
    """

    formats: ClassVar = ("safetensors",)
    folder: ClassVar = True
    companions: ClassVar = COMPANIONS

    micro_batch: Annotated[int, Limited(ge=1)] = 64
    """Rows per forward pass."""

    @classmethod
    def files_in(cls, folder: Path) -> tuple[Path, ...]:
        """Configuration, weights and tokenizer.

        Raises:
            UserError: one is missing, or the weights are pickled or in several files.
        """
        return folder_files(folder)

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """Layers and token embeddings, besides what the output space gives."""
        return differentiable(output, layers=True) | {Capability.EMBEDDINGS}

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Task and classes from the configuration; texts of up to 512 characters."""
        classes = _classes(_configuration(files, "the folder"), "the folder")
        spec = InputSpec(fields=(Field(name="text", kind="text", shape=(_LENGTH,)),))
        if len(classes) == 1:
            return Inferred("regression", (), spec, "value")
        return Inferred("classification", classes, spec, "logit")

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Lay the files out in a folder of their own and let transformers open it."""
        classes = _classes(_configuration(files, card.ref), card.ref)
        offered: OutputSpace = "value" if len(classes) == 1 else "logit"
        if card.output != offered:
            raise unsupported(card, "a sequence classifier", [offered])
        if offered == "logit":
            class_count(len(classes), card)
        if card.spec.kind != "text":
            raise UserError(f"{card.ref}: the model reads texts, the input spec says {card.spec.kind}")
        model = _opened(files, card.ref)
        answered = audited(
            card, self.capabilities(card.output), model, module=model.module, micro_batch=self.micro_batch
        )
        answered.text = model
        return answered


def _configuration(files: Mapping[str, Path], ref: str) -> dict[str, Any]:
    """``config.json`` of a sequence classifier, whose code is transformers' own.

    Raises:
        UserError: it is damaged, of another kind of model, or names code.
    """
    if missing := [name for name in (CONFIG, WEIGHTS) if name not in files]:
        raise UserError(f"{ref}: {missing[0]} is missing: give the folder that save_pretrained() wrote")
    config = configuration(files, ref)
    architectures = config.get("architectures") or ["nothing"]
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        raise UserError(f"{ref}: {CONFIG} speaks of {architectures[0]}, not of a …ForSequenceClassification")
    if config.get("problem_type") == "multi_label_classification":
        raise UserError(f"{ref}: several labels at once are no classes that exclude each other: audit one label a time")
    return config


def _classes(config: Mapping[str, Any], ref: str) -> tuple[str, ...]:
    """Names of the outputs in their order; transformers takes two where nothing is said."""
    names = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(int(config.get("num_labels", 2)))}
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
        raise UserError(f"{ref}: id2label of {CONFIG} does not number its classes from 0")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def _opened(files: Mapping[str, Path], ref: str) -> TokenClassifier:
    """Tokenizer and module, in a state to be audited."""
    from audit.registry.loaders._huggingface_tokens import TokenClassifier

    transformers = library()
    with quiet(transformers), laid_out(files) as folder:
        try:
            module, report = _module(transformers, folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
        except Exception as error:  # damage shows as whatever a library of libraries happens to raise
            raise UserError(f"{ref}: transformers cannot open the folder: {one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{ref}: {WEIGHTS} lacks {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}: it holds no trained classifier "
            "of this configuration"
        )
    if not tokenizer.is_fast:
        raise UserError(f"{ref}: its tokenizer does not know where its tokens stand: add a tokenizer.json")
    if len(tokenizer) > (rows := module.get_input_embeddings().weight.shape[0]):
        raise UserError(f"{ref}: the tokenizer knows {len(tokenizer)} tokens, the model {rows}: they do not fit")
    if any(tokenizer("a").get("token_type_ids", ())):
        raise UserError(f"{ref}: its tokenizer numbers the parts of a text (token_type_ids), which are not fed here")
    _pad(module, tokenizer)
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return TokenClassifier(module, tokenizer, _longest(module, tokenizer))


def _module(transformers: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    import torch

    with torch.random.fork_rng(devices=[]):  # weights that the file lacks are drawn
        found = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
            **LOCAL,
        )  # fmt: skip
    return found[0], found[1]


def _pad(module: Any, tokenizer: Any) -> None:
    """Let rows of different lengths stand in one batch, also where the model was made without that in mind."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id


def _longest(module: Any, tokenizer: Any) -> int:
    """Tokens that a row may have: what the tokenizer says, and what there are positions for."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < _UNLIMITED else []
    if (positions := getattr(module.config, "max_position_embeddings", None)) is not None:
        table = next((part for name, part in module.named_modules() if name.endswith("position_embeddings")), None)
        before = getattr(table, "padding_idx", None)  # RoBERTa counts from behind its padding
        limits.append(positions - (before + 1 if before is not None else 0))
    return min(limits, default=_LENGTH)
