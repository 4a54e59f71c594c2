"""Reports of a stored run: one file per format. They read the run folder, and measure and judge nothing again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from audit.language import speaking, spoken
from audit.names import resolve
from audit.parameters import UserError
from audit.run_folder import Run, write_atomically


class Renderer(ABC):
    """One report format. A package adds another through the entry point group ``audit.reports``."""

    name: ClassVar[str]
    """As ``audit report --format`` takes it."""
    suffix: ClassVar[str]
    """Of the file it is written to, without a dot in front: ``html``."""
    translated: ClassVar[bool] = False
    """Whether it speaks the reader's language; what machines and terminals read is always English."""

    @abstractmethod
    def render(self, run: Run) -> str:
        """The report's text; the same run gives the same text, byte for byte.

        Raises:
            UserError: the run folder cannot be read at all; damage to a part of it is shown in the report instead.
        """


def renderer(name: str) -> Renderer:
    """The renderer of a format.

    Raises:
        UserError: there is no such format.
    """
    found = resolve("reports", name)
    if not (isinstance(found, type) and issubclass(found, Renderer)):
        raise UserError(f"report format '{name}' is no Renderer: {found!r}")
    return found()


def render(name: str, run: Run) -> str:
    """A stored run as a report in the named format, in the language that is spoken where the format is translated.

    Raises:
        UserError: there is no such format.
    """
    found = renderer(name)
    with speaking(spoken() if found.translated else "en"):
        return found.render(run)


def write(name: str, run: Run, path: Path) -> Path:
    """Render a run into a file, in one step, and give the file's path.

    Raises:
        UserError: there is no such format, or the file cannot be written.
    """
    text = render(name, run)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


__all__ = ["Renderer", "render", "renderer", "write"]
