"""How a model is referred to: ``name``, ``name@3``, ``name@latest``, ``name@alias``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from audit.parameters import UserError

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Reference:
    """A parsed reference: a version by its number, or by an alias (``latest`` where none was given)."""

    name: str
    version: int | None
    alias: str | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            UserError: it is malformed.
        """
        name, at, selector = text.partition("@")
        check_name(name)
        if not at:
            return cls(name, None, LATEST)
        if re.fullmatch(r"[0-9]{1,9}", selector):
            return cls(name, int(selector), None)
        if not _LABEL.fullmatch(selector):
            raise UserError(f"'{text}' refers to no model: write 'name', 'name@3', 'name@latest' or 'name@alias'")
        return cls(name, None, selector)


def check_name(name: str) -> str:
    """`name` itself, where it is a model's name.

    Raises:
        UserError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"'{name}' is no model name: use letters, digits and '_', '.', '-', starting with a letter or digit"
        )
    return name


def check_alias(alias: str) -> str:
    """`alias` itself, where it can name a version.

    Raises:
        UserError: it is malformed, or is ``latest``, which always means the newest version.
    """
    if alias == LATEST:
        raise UserError("'latest' always means the newest version: choose another alias")
    return _check_label(alias, "alias")


def check_tag(tag: str) -> str:
    """`tag` itself, where it can be one.

    Raises:
        UserError: it is malformed.
    """
    return _check_label(tag, "tag")


def _check_label(text: str, what: str) -> str:
    if not _LABEL.fullmatch(text):
        raise UserError(f"'{text}' is no {what}: use letters, digits and '_', '.', '-', starting with a letter")
    return text
