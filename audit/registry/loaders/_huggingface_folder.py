"""Folders that transformers' ``save_pretrained`` wrote, opened offline: no code of theirs runs, nothing is downloaded."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit.parameters import UserError
from audit.registry.byte_window import Malformed
from audit.registry.plain_formats import parse_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
COMPANIONS = frozenset(
    {
        CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
        "vocab.json", "merges.txt",
    }
)  # fmt: skip
"""What is read besides the weights: JSON and text."""
LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of every ``from_pretrained``."""
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json")


def folder_files(folder: Path) -> tuple[Path, ...]:
    """Configuration, weights and tokenizer of a folder.

    Raises:
        UserError: one is missing, or the weights are pickled or in several files.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no model folder: it holds no {CONFIG}; write it with save_pretrained()")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}: {_instead(folder)}")
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise UserError(f"{folder} holds no tokenizer: write it there with tokenizer.save_pretrained()")
    return tuple(path for name in sorted({*COMPANIONS, WEIGHTS}) if (path := folder / name).is_file())


def _instead(folder: Path) -> str:
    """What to do about weights that are not there."""
    if any(folder.glob("*.safetensors.index.json")):
        return "its weights are in several files; save it anew with save_pretrained(DIR, max_shard_size='1TB')"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return "pickled weights can run code and are not opened; save it anew with save_pretrained(), as safetensors"
    return "write it with model.save_pretrained()"


def configuration(files: Mapping[str, Path], ref: str) -> dict[str, Any]:
    """``config.json`` of a model whose code is transformers' own and whose weights are not quantised.

    Raises:
        UserError: it is damaged, or names code.
    """
    for name in (CONFIG, "tokenizer_config.json"):
        if name in files and "auto_map" in document(files[name], name, ref):
            raise UserError(
                f"{ref}: {name} names Python code (auto_map), which would run when the model is opened; only the classes of "
                "transformers itself are: register it as a Python callable"
            )
    config = document(files[CONFIG], CONFIG, ref)
    if "quantization_config" in config:
        raise UserError(f"{ref}: quantised weights are not opened here: save the model in full precision")
    return config


def document(path: Path, name: str, ref: str) -> dict[str, Any]:
    """A JSON object of a folder.

    Raises:
        UserError: it is damaged, or no object.
    """
    try:
        found = parse_json(path.read_bytes(), "")
    except Malformed as error:
        raise UserError(f"{ref}: {name} {error.what}") from None
    if not isinstance(found, dict):
        raise UserError(f"{ref}: {name} holds a {type(found).__name__}, not settings by name")
    return found


@contextmanager
def laid_out(files: Mapping[str, Path]) -> Iterator[Path]:
    """A folder with these files alone, under their names."""
    with tempfile.TemporaryDirectory(prefix="audit-") as name:
        folder = Path(name)
        for file, path in files.items():
            os.symlink(path.resolve(), folder / file)
        yield folder


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars, logs and warnings of transformers; its settings come back as they were."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own deprecations; what is wrong with a model raises
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def library() -> Any:
    """The package transformers.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import transformers
    except ImportError as error:
        raise UserError("transformers is not installed: pip install 'assay[transformers]'") from error
    return transformers
