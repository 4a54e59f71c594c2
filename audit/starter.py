"""A commented starter scenario for a registered model: the checks that suit its capabilities and task."""

from __future__ import annotations

import os
from pathlib import Path

from audit.explainers import usual
from audit.model import Capability
from audit.parameters import UserError
from audit.registry.card import ModelCard

_BY_SUFFIX = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".gz": "csv", ".bz2": "csv"}


def starter(card: ModelCard, ref: str, data: str, label: str | None, folder: Path) -> str:
    """The scenario's text.

    Args:
        data: the name of a source, or a file or image folder.
        label: label column, for a table.
        folder: where the scenario will stand; file paths are written relative to it.

    Raises:
        UserError: the data is neither a known source nor an existing file.
    """
    source, splits = _source(data, label, folder)
    offers = frozenset(card.capabilities)
    lines = [
        f"# Starter scenario for {card.ref} ({card.task}, {card.loader}).",
        "# A gate passes only when its whole 95 % interval meets it; 'audit checks NAME' explains every check.",
        "# The thresholds below are a start: put in what your release must keep.",
        f"name: {card.name}",
        f"model: {ref}",
        f"data: {source}",
        "seed: 0",
        "checks:",
        "  # Does the model keep its contract: outputs as declared, deterministic, bounds that fit the data?",
        "  - preflight.model_contract: {}",
        '    require: {violations: "== 0"}',
        "",
    ]
    lines += _performance(card)
    lines += _explanation(card, offers)
    lines += _robustness(card, offers)
    if splits and card.task == "classification" and Capability.PROBABILITIES in offers:
        lines += [
            "  # Can an outsider tell who was trained on? The blind control voids the number where inputs alone tell.",
            "  - privacy.membership_inference: {}",
            '    require: {auc: "<= 0.60"}',
            "    severity: high",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _source(data: str, label: str | None, folder: Path) -> tuple[str, bool]:
    from audit.names import available, unknown

    path = Path(data)
    kind = "image_folder" if path.is_dir() else _BY_SUFFIX.get(path.suffix.lower()) if path.exists() else None
    split = "split: {test: 0.3, stratify: true}"
    if kind is not None:
        shown = os.path.relpath(path.resolve(), folder)
        if kind in ("csv", "parquet"):
            if label is None:
                raise UserError(f"{data} is a table: name its label column with --label COLUMN")
            return (
                f"{{source: {kind}, path: {_quoted(shown)}, label: {_quoted(label)}}}  # add 'split' if the model was trained on part of it",
                False,
            )
        return (
            f"{{source: {kind}, path: {_quoted(shown)}}}  # add 'split' if the model was trained on part of it",
            False,
        )
    head = data.split(".")[0]
    if head in available("datasets") and "." in data:
        named = f", label: {_quoted(label)}" if label else ""
        return f"{{source: {data}{named}, {split}}}  # the split must be the one the model was trained with", True
    if path.suffix.lower() in _BY_SUFFIX or os.sep in data:
        raise UserError(
            f"--data {data}: there is no such file, or none that a data source reads: {', '.join(_BY_SUFFIX)} or an image folder"
        )
    raise unknown("data source", data, available("datasets"))


def _quoted(text: str) -> str:
    plain = all(c.isalnum() or c in "._-/" for c in text) and not text[:1].isdigit()
    return text if plain else "'" + text.replace("'", "''") + "'"


def _performance(card: ModelCard) -> list[str]:
    if card.task == "regression":
        return [
            "  # How good is it?",
            "  - performance.regression: {}",
            '    require: {r2: ">= 0.5"}',
            "    severity: medium",
            "",
        ]
    return [
        "  # How good is it, per class and (with protected attributes) per group?",
        "  - performance.classification: {}",
        '    require: {accuracy: ">= 0.90"}',
        "    severity: medium",
        "",
    ]


def _explanation(card: ModelCard, offers: frozenset[Capability]) -> list[str]:
    explainer = usual(offers)
    if explainer is None:
        return ["  # Explanation: labels alone give nothing to attribute.", ""]
    lines = [
        "  # Do attributions name the inputs that the answer rests on (deletion and insertion against random orders)?",
        f"  - explanation.faithfulness: {{explainer: {explainer}, samples: 100}}",
        '    require: {deletion_gain: "> 0", insertion_gain: "> 0"}',
        "    severity: medium",
        "  # Do they add up to the answer?",
        f"  - explanation.completeness: {{explainer: {explainer}, samples: 100}}",
        "    severity: low",
    ]
    if Capability.LAYERS in offers:
        lines += [
            "  # Do they owe anything to what the model learnt? Its layers are randomised from the top down; a map that stays is no explanation.",
            f"  - explanation.randomisation: {{explainer: {explainer}, samples: 100}}",
            "    severity: medium",
        ]
    if card.spec.tabular:
        lines += [
            '  # Which columns does it lean on? Gate a rank where one must not lead: "rank[feature=age]": "> 3".',
            "  - explanation.importance: {}",
            "    severity: medium",
        ]
    return [*lines, ""]


def _robustness(card: ModelCard, offers: frozenset[Capability]) -> list[str]:
    if card.task != "classification":
        return []
    if card.spec.kind == "text":
        return [
            "  # How many texts stay right when three words are mistyped or written in letters that look the same?",
            "  - robustness.evasion: {attacks: [character_edits: {max_edits: 3}], queries: 500, samples: 200}",
            '    require: {robust_accuracy: ">= 0.50"}',
            "    severity: high",
            "",
        ]
    bounds = card.spec.bounds
    if card.spec.tabular:
        return [
            "  # How many rows change their answer when somebody changes what is in their hands? Name what is not: immutable: [..].",
            "  - robustness.evasion: {attacks: [tabular], samples: 100}",
            "    severity: high",
            "",
        ]
    if bounds is None:
        return ["  # Robustness: norm-bounded attacks need one pair of bounds for the whole input; declare them.", ""]
    eps = 8 / 255 * (bounds[1] - bounds[0])
    attack = (
        "pgd" if Capability.GRADIENTS in offers else "square" if Capability.PROBABILITIES in offers else "hop_skip_jump"
    )
    return [
        f"  # How much accuracy is left under attack? eps is in the units you feed ({bounds[0]:g} to {bounds[1]:g}); this is 8/255 of them.",
        f"  - robustness.evasion: {{attacks: [{attack}], norm: linf, eps: {eps:.4g}, samples: 200}}",
        '    require: {robust_accuracy: ">= 0.50"}',
        "    severity: high",
        "",
    ]
