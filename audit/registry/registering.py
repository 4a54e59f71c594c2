"""From a file and what its owner says of it to a card: scanned, opened once, asked, and only then written down."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from audit.model import InputSpec, OutputSpace, Task
from audit.names import resolve
from audit.parameters import UserError
from audit.registry.blobs import BlobFolder, Staged
from audit.registry.card import ModelCard
from audit.registry.importing import is_target
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._shared import reachable
from audit.registry.opening import (
    admit,
    build_loader,
    card_digest,
    check_file,
    loader_for,
    loader_of_folder,
)
from audit.registry.probing import probe
from audit.registry.scan import scan_file
from audit.registry.trust import Trust

SpecChoice = InputSpec | Callable[[InputSpec | None], InputSpec | None] | None
"""An input spec, or a function from what the file says of itself to one."""
_PATIENCE = "say what it is fed: --input image --shape 3,224,224, --features, or --spec FILE"


@dataclass(frozen=True)
class Declared:
    """What the owner says of a model; None where the file is to say it."""

    loader: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    classes: Sequence[str] | int | None = None
    spec: SpecChoice = None
    output: OutputSpace | None = None


def prepare(
    name: str, version: int, source: Path | str, declared: Declared, blobs: BlobFolder, trust: Trust
) -> tuple[ModelCard, list[Staged]]:
    """Copy a file in, scan it, open it, ask it; nothing is registered yet. The caller places or discards the copies.

    Args:
        version: the number the model will probably get, for messages.
        source: a path of a file or a model's folder, a ``file:`` URI, or ``package.module:function``.

    Raises:
        UserError: the file is refused or needs trust, or the model is not what was declared.
    """
    path = _local_path(source)
    if path is None:
        loader_name = declared.loader or "python_callable"
        loader = _built(loader_name, declared.parameters, str(source))
        return _card(name, version, str(source), loader_name, loader, {}, {}, declared, trust), []
    if declared.loader is not None and not resolve("loaders", declared.loader).formats:
        raise UserError(f"loader '{declared.loader}' opens no file: give 'package.module:function' in its place")
    chosen = _of_folder(path, declared.loader) if path.is_dir() else (path,)
    copies: list[Staged] = []
    try:
        copies.extend(blobs.stage(part) for part in chosen)
        loader_name = _admitted(path, copies, declared.loader, trust)
        loader = _built(loader_name, declared.parameters, None)
        files = {part.name: copy.path for part, copy in zip(chosen, copies, strict=True)}
        digests = {part.name: copy.sha256 for part, copy in zip(chosen, copies, strict=True)}
        return _card(name, version, str(source), loader_name, loader, files, digests, declared, trust), copies
    except BaseException:
        for copy in copies:
            blobs.discard(copy)
        raise


def _of_folder(folder: Path, loader: str | None) -> tuple[Path, ...]:
    """The files of a folder that are the model."""
    kind: type[Loader] = resolve("loaders", loader or loader_of_folder(folder))
    if not kind.folder:
        raise UserError(
            f"loader '{loader}' opens a file, and {folder} is a folder: give the path of the model file itself"
        )
    return kind.files_in(folder)


def _admitted(path: Path, copies: Sequence[Staged], loader: str | None, trust: Trust) -> str:
    """Let the copies pass; the name of the loader that they are for."""
    if path.is_dir():
        name = loader or loader_of_folder(path)
        scanned = [check_file(copy.path, copy.path.name, name, trust) for copy in copies]
    else:
        report = scan_file(copies[0].path)
        name = loader or loader_for(report)
        if resolve("loaders", name).folder:
            raise UserError(f"loader '{name}' opens a folder: give the one that {path.name} is in")
        admit(report, name, trust)
        scanned = [report.sha256]
    if any(found not in ("", copy.sha256) for found, copy in zip(scanned, copies, strict=True)):
        raise UserError(f"the copy of {path} was changed while it was scanned")
    return name


def user_name() -> str:
    """Who is at work: the login name, or the number of a user who has none (as in many containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _local_path(source: Path | str) -> Path | None:
    """The file or folder that is meant; None for a callable.

    Raises:
        UserError: there is no such file, or it is elsewhere.
    """
    text = str(source)
    path = Path(text)
    if text.startswith("file:"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{text} is on another machine: copy the file here and add that")
        path = Path(unquote(parts.path))
    elif "://" in text:
        raise UserError(f"{text} is not on this machine, and nothing is downloaded here: fetch the file and add that")
    elif not path.exists() and is_target(text):
        return None
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is no regular file: give the path of the model file itself")
    return path


def _built(name: str, parameters: Mapping[str, Any], uri: str | None) -> Loader:
    """The loader; one that opens no file gets what was named in the file's place."""
    kind: type[Loader] = resolve("loaders", name)
    if uri is None:
        return build_loader(name, parameters)
    if kind.uri_field is None:
        raise UserError(f"loader '{name}' opens a file, and there is no file '{uri}'")
    return build_loader(name, {**parameters, kind.uri_field: uri})


def _card(
    name: str,
    version: int,
    source: str,
    loader_name: str,
    loader: Loader,
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    declared: Declared,
    trust: Trust,
) -> ModelCard:
    inferred = loader.infer(files, trust)
    loader = loader.pinned(trust)
    task, output = _task_and_output(declared, inferred)
    classes, spec = _classes(task, declared, inferred), _spec(declared, inferred)
    card = ModelCard(
        name=name,
        version=version,
        loader=loader_name,
        parameters=loader.model_dump(mode="json", exclude_defaults=True),
        task=task,
        classes=classes,
        spec=spec,
        output=output,
        capabilities=tuple(sorted(reachable(loader.capabilities(output), spec))),
        files=dict(digests),
        digest="",
        source=source,
        added_by=user_name(),
        added_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    card = card.model_copy(update={"digest": card_digest(card)})
    probe(loader.load(card, files, trust), fixed_mode=loader.fixed_mode)
    return card


def _task_and_output(declared: Declared, inferred: Inferred) -> tuple[Task, OutputSpace]:
    output = declared.output
    task = declared.task or ("regression" if output == "value" else inferred.task or "classification")
    if output is None:
        output = "value" if task == "regression" else inferred.output
    if output is None:
        raise UserError("say what the model answers: --output logit, margin, probability, label or value")
    if (task == "regression") != (output == "value"):
        raise UserError(
            f"a {task} model does not answer output '{output}': regression gives 'value', and nothing else does"
        )
    return task, output


def _classes(task: Task, declared: Declared, inferred: Inferred) -> tuple[str, ...]:
    classes = declared.classes
    if task == "regression":
        if classes:
            raise UserError("a regression has no classes: leave them out, or declare task 'classification'")
        return ()
    if classes is None:
        classes = inferred.classes
    if classes is None:
        raise UserError("say which classes the model tells apart: --classes cat,dog, or how many: --classes 10")
    names = tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    if len(names) < 2:
        raise UserError(f"a classifier needs at least two classes, got {len(names)}")
    if len(set(names)) < len(names):
        raise UserError("class names must be unique")
    return names


def _spec(declared: Declared, inferred: Inferred) -> InputSpec:
    spec = declared.spec(inferred.spec) if callable(declared.spec) else declared.spec or inferred.spec
    if spec is None:
        raise UserError(f"the file does not say what the model is fed: {_PATIENCE}")
    return spec
