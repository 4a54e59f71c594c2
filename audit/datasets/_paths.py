"""Where a data source's files lie: beside the scenario, at an absolute path, or inside an installed package."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from audit.parameters import UserError

_PACKAGE = re.compile(r"package:([A-Za-z_][A-Za-z0-9_]*)/(.+)")


def one_line(error: BaseException) -> str:
    """An exception's own words on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def package_folder(name: str) -> Path | None:
    """The folder of an installed top-level package, found without importing it; None where there is none."""
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        return None
    folders = list(found.submodule_search_locations or ()) if found else []
    return Path(folders[0]) if folders else None


def locate(path: str, base: Path) -> Path:
    """Turn a path of a scenario into a file system path.

    Args:
        path: absolute, relative to `base`, or ``package:NAME/inner/path`` for data that an installed package carries.
        base: the scenario's folder.

    Raises:
        UserError: the path is blank or malformed, the package is not installed, or the inner path leaves it.
    """
    if not path.strip() or "\0" in path:
        raise UserError(f"{path!r} is no path: give a file or folder, or 'package:NAME/inner/path'")
    if not path.startswith("package:"):
        return base / path
    match = _PACKAGE.fullmatch(path)
    if not match:
        raise UserError(f"'{path}' must read 'package:NAME/inner/path', with the name of a top-level package")
    name, inner = match.groups()
    folder = package_folder(name)
    if folder is None:
        raise UserError(f"'{path}': no package '{name}' with a folder is installed; install it first")
    target = (folder / inner).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise UserError(f"'{path}' leaves the package '{name}': the inner path must stay below its folder")
    return target


def locate_file(path: str, base: Path) -> Path:
    """As `locate`, for a file that must exist and hold something.

    Raises:
        UserError: it is missing, a folder, empty, or may not be read.
    """
    file = locate(path, base)
    try:
        with file.open("rb") as content:
            if not content.read(1):
                raise UserError(f"{file} is empty")
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist") from error
    except IsADirectoryError as error:
        raise UserError(f"{file} is a folder, a file is needed") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error
    return file


def locate_folder(path: str, base: Path) -> Path:
    """As `locate`, for a folder that must exist and may be listed.

    Raises:
        UserError: it is missing, a file, or may not be listed.
    """
    folder = locate(path, base)
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError as error:
        raise UserError(f"{folder} does not exist") from error
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file, a folder is needed") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {one_line(error)}") from error
    return folder
