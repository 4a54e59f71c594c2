"""From a card to a loaded model: digest, scan, trust, and only then the loader."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audit.finding import canonical_json
from audit.model import AuditedModel, InputSpec
from audit.names import available, resolve
from audit.parameters import UserError
from audit.registry.blobs import BlobFolder
from audit.registry.card import ModelCard
from audit.registry.loaders import Loader
from audit.registry.plain_formats import check_companion
from audit.registry.scan import scan_file
from audit.registry.scan_report import ScanReport
from audit.registry.trust import Trust

_NO_LOADER = {
    "pickle": "a pickle runs code when it is opened",
    "joblib": "a joblib file is a pickle, which runs code when it is opened",
    "npy": "an array is no model",
    "npz": "arrays are no model",
    "zip": "an archive of no model format",
    "unknown": "no known model format",
}


def card_digest(card: ModelCard) -> str:
    """SHA-256 over what the model *is*: loader, parameters, files' digests, input spec, task, classes, output space.

    A file by itself may have any name; of several, the names say which is which.
    """
    spec: InputSpec = card.spec
    parts = {
        "loader": card.loader,
        "parameters": card.parameters,
        "files": sorted(card.files.values()) if len(card.files) < 2 else sorted(card.files.items()),
        "spec": spec.model_dump(mode="json"),
        "task": card.task,
        "classes": card.classes,
        "output": card.output,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def loaders_of(file_format: str) -> list[str]:
    """Names of the loaders that open a file of a format."""
    kinds = {name: resolve("loaders", name) for name in available("loaders")}
    return [name for name, kind in kinds.items() if file_format in kind.formats and not kind.folder]


def loader_of_folder(folder: Path) -> str:
    """The one loader of folders.

    Raises:
        UserError: there are several.
    """
    found = [name for name in available("loaders") if resolve("loaders", name).folder]
    if len(found) != 1:
        raise UserError(f"{folder} is a folder, which several loaders open: name one of {', '.join(found)}")
    return found[0]


def check_file(path: Path, name: str, loader: str, trust: Trust) -> str:
    """Let a file of a model pass to its loader, or say why not.

    Args:
        name: what the file is called in the model; its content lies at `path`.

    Returns:
        Its SHA-256 as the scan read it; empty where it was not scanned.

    Raises:
        UserError: as `admit`; or a companion is neither JSON nor text.
    """
    if name in resolve("loaders", loader).companions:
        check_companion(path, name)
        return ""
    report = dataclasses.replace(scan_file(path), path=Path(name))  # say its own name, not the blob's
    admit(report, loader, trust)
    return report.sha256


def build_loader(name: str, parameters: Mapping[str, Any]) -> Loader:
    """A loader with its parameters.

    Raises:
        UserError: there is no such loader, or a parameter is missing, unknown or wrong.
    """
    kind = resolve("loaders", name)
    try:
        return kind(**parameters)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "parameters"
        known = ", ".join(kind.model_fields) or "none"
        if first["type"] == "missing":
            reason = f"needs '{field}': {' '.join(kind.documentation().get(field, '').replace('`', '').split())}"
        elif first["type"] == "extra_forbidden":
            reason = f"has no parameter '{field}'; it has {known}"
        else:
            reason = f"parameter '{field}': {first['msg'].removeprefix('Value error, ')}"
        raise UserError(f"loader '{name}' {reason}") from error


def admit(report: ScanReport, name: str, trust: Trust) -> None:
    """Let a scanned file pass to the loader of a name, or say why not.

    Raises:
        UserError: the file is refused, of another format, or can run code and is not trusted.
    """
    formats = resolve("loaders", name).formats
    own_format = report.format == "unknown" and "unknown" in formats
    if report.verdict == "refused" and not own_format:
        raise UserError(report.summary)
    if report.format not in formats:
        raise UserError(
            f"{report.path.name} is a {report.format} file; loader '{name}' opens {', '.join(formats) or 'no files'}"
        )
    if not own_format:
        trust.admit(report)
    elif not trust.is_trusted(report.sha256):
        raise UserError(
            f"{report.path.name} is of a format that only loader '{name}' knows, so it could not be judged: if you know who made "
            f"it and trust them, run `audit model trust {report.sha256}`"
        )


def loader_for(report: ScanReport) -> str:
    """The one loader of a scanned file's format.

    Raises:
        UserError: the file is refused, or no loader or more than one opens it.
    """
    found = loaders_of(report.format) if report.format != "unknown" else []
    if len(found) == 1:
        return found[0]
    if report.verdict == "refused":
        raise UserError(report.summary)
    if found:
        raise UserError(
            f"{report.path.name} is a {report.format} file, which several loaders open: name one of {', '.join(found)}"
        )
    held = "; ".join(str(issue) for issue in report.findings[:3])
    raise UserError(
        f"{report.path.name} is refused: {_NO_LOADER.get(report.format, 'no loader opens it')}{f' ({held})' if held else ''}, and no "
        "loader opens it, trusted or not: save the model as safetensors, skops, ONNX, or in its library's own format"
    )


def open_card(card: ModelCard, blobs: BlobFolder, trust: Trust) -> AuditedModel:
    """Load a registered model, after digesting and scanning its files again.

    Raises:
        UserError: the card or a file was changed, trust is lacking, or the loader cannot open it.
    """
    if card_digest(card) != card.digest:
        raise UserError(f"the registry's entry of {card.ref} was changed after it was registered: add the model again")
    loader = build_loader(card.loader, card.parameters)
    files: dict[str, Path] = {}
    for name, sha256 in card.files.items():
        files[name] = blobs.verified(sha256, f"the file {name} of {card.ref}")
        check_file(files[name], name, card.loader, trust)
    model = loader.load(card, files, trust)
    model.recipe, model.files = card.recipe, files
    if card.ledger is not None:
        model.ledger = blobs.verified(card.ledger, f"the privacy ledger of {card.ref}").read_text(encoding="utf-8")
    return model
