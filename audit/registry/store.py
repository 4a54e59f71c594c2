"""The model registry: names, versions, aliases and tags in a database, files in a folder by their content."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, delete, insert, select, update

from audit.model import AuditedModel, OutputSpace, Task
from audit.names import unknown
from audit.parameters import UserError
from audit.recipe import Recipe
from audit.registry.blobs import BlobFolder, Staged
from audit.registry.card import ModelCard
from audit.registry.database import Database, aliases, names, tags, versions
from audit.registry.opening import open_card
from audit.registry.reference import LATEST, Reference, check_alias, check_name, check_tag
from audit.registry.registering import Declared, SpecChoice, prepare
from audit.registry.trust import Trust

PARSED = 8192
"""Cards that are kept in memory: a dashboard lists all of them again and again."""
_ROW_ID = re.compile(r"[0-9a-f]{16}(-[0-9]+)?")


class Registry:
    """Which models exist.

    Args:
        home: folder with the blobs, the trust file and, unless `url` says otherwise, the database; usually ``.audit``.
        url: any SQLAlchemy URL in place of the embedded SQLite file; default ``AUDIT_REGISTRY_URL``.
        blobs: the blob folder where it is not ``home/blobs``: registries that share a database share this folder too, and each
            user's trust stays in their own `home`. Default ``AUDIT_BLOBS``.

    Raises:
        UserError: the URL cannot be used.
    """

    def __init__(self, home: Path | str, url: str | None = None, blobs: Path | str | None = None) -> None:
        self.home = Path(home)
        self.blobs = BlobFolder(Path(blobs or os.environ.get("AUDIT_BLOBS") or self.home / "blobs"))
        self.trust = Trust(self.home)
        url = url or os.environ.get("AUDIT_REGISTRY_URL")
        self._database = Database(url or f"sqlite:///{(self.home / 'registry.sqlite').absolute()}")

    # --- reading ---

    def get(self, ref: str) -> ModelCard:
        """The card of ``name``, ``name@3``, ``name@latest`` or ``name@alias``.

        Raises:
            UserError: there is no such model, version or alias.
        """
        with self._database.reading() as connection:
            if connection is None:
                raise unknown("model", Reference.parse(ref).name, [])
            return self._card(connection, *self._resolve(connection, ref))

    def list(self) -> list[ModelCard]:
        """Every version of every model, by name, newest first."""
        with self._database.reading() as connection:
            if connection is None:
                return []
            own_tags, own_aliases = (
                defaultdict[tuple[str, int], list[str]](list),
                defaultdict[tuple[str, int], list[str]](list),
            )
            for name, version, tag in connection.execute(select(tags.c.name, tags.c.version, tags.c.tag)):
                own_tags[name, version].append(tag)
            for name, version, alias in connection.execute(select(aliases.c.name, aliases.c.version, aliases.c.alias)):
                own_aliases[name, version].append(alias)
            query = select(versions.c.name, versions.c.version, versions.c.card)
            found = connection.execute(query.order_by(versions.c.name, versions.c.version.desc())).all()
        return [
            _named(
                _parse(text, str(self._database)),
                own_tags.get((name, version), ()),
                own_aliases.get((name, version), ()),
            )
            for name, version, text in found
        ]

    def open(self, ref: str) -> AuditedModel:
        """The loaded model: its files are digested and scanned again before anything is opened.

        Raises:
            UserError: there is no such model, a file was changed or is missing, or trust is lacking.
        """
        return open_card(self.get(ref), self.blobs, self.trust)

    def members(self, card: ModelCard) -> frozenset[str] | None:
        """Ids of the rows that the model was trained on; None where they are not known.

        Raises:
            UserError: the stored list is missing or was changed.
        """
        if card.members is None:
            return None
        path = self.blobs.verified(card.members, f"the list of members of {card.ref}")
        return frozenset(path.read_text(encoding="ascii").split())

    def ledger(self, card: ModelCard) -> bytes | None:
        """The privacy ledger of the model's training, as JSON; None where it has none.

        Raises:
            UserError: the stored ledger is missing or was changed.
        """
        if card.ledger is None:
            return None
        return self.blobs.verified(card.ledger, f"the privacy ledger of {card.ref}").read_bytes()

    # --- writing ---

    def add(
        self,
        name: str,
        source: Path | str,
        *,
        loader: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        task: Task | None = None,
        classes: Sequence[str] | int | None = None,
        spec: SpecChoice = None,
        output: OutputSpace | None = None,
        tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        members: Iterable[str] | None = None,
        ledger: bytes | None = None,
        recipe: Recipe | None = None,
    ) -> ModelCard:
        """Register a new version of a model. The file is copied, scanned, opened and asked before anything is written down.

        Args:
            source: a file, a model's folder, a ``file:`` URI, or ``package.module:function`` for a Python callable.
            loader: name of the loader; told by the file's content where only one opens it.
            parameters: the loader's parameters: ``{"factory": "package.module:function"}`` …
            classes: class names in the order of the model's outputs, or how many.
            spec: the input; see `SpecChoice`.
            output: what the model answers in.
            members: ids of the rows (`Batch.ids`) that it was trained on.
            ledger: the privacy ledger of its training, as JSON.
            recipe: how it was trained.

        Returns:
            The card, with its version.

        Raises:
            UserError: the file is refused or needs trust, the model does not answer as declared, or nothing can be written.
        """
        check_name(name)
        labels = [check_tag(tag) for tag in dict.fromkeys(tags)]
        pointers = [check_alias(alias) for alias in dict.fromkeys(aliases)]
        rows = _row_list(members)
        declared = Declared(loader, parameters or {}, task, classes, spec, output)
        card, copies = prepare(name, self._next_version(name), source, declared, self.blobs, self.trust)
        try:
            if rows is not None:
                copies.append(self.blobs.stage_bytes(rows, "members.txt"))
                card = card.model_copy(update={"members": copies[-1].sha256})
            if ledger is not None:
                copies.append(self.blobs.stage_bytes(ledger, "privacy.json"))
                card = card.model_copy(update={"ledger": copies[-1].sha256})
            card = card.model_copy(update={"recipe": recipe})
            return self._write(card, copies, labels, pointers)
        finally:
            for copy in copies:
                self.blobs.discard(copy)

    def remove(self, ref: str) -> tuple[ModelCard, int]:
        """Forget one version; files that no other version has are deleted. Its number is not used again.

        Returns:
            The card, and how many bytes were freed.

        Raises:
            UserError: there is no such version, or nothing can be written.
        """
        with self._changing(ref) as (connection, name, version):
            card = self._card(connection, name, version)
            connection.execute(delete(versions).where(versions.c.name == name, versions.c.version == version))
        with self._database.writing() as connection:  # of its own: a version is gone before its files are
            texts = connection.execute(select(versions.c.card)).scalars().all()
            cards = [_parse(text, str(self._database)) for text in texts]
            kept = {sha256 for c in cards for sha256 in (*c.files.values(), c.members, c.ledger) if sha256}
            _, freed = self.blobs.sweep(kept)
        return card, freed

    def set_alias(self, ref: str, alias: str) -> ModelCard:
        """Let ``name@alias`` mean a version; an alias of the model's other versions moves here.

        Raises:
            UserError: there is no such version, or the alias is malformed.
        """
        check_alias(alias)
        with self._changing(ref) as (connection, name, version):
            _point(connection, name, alias, version)
            return self._card(connection, name, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias off a model.

        Raises:
            UserError: the model has no such alias.
        """
        with self._changing(f"{name}@{check_alias(alias)}") as (connection, _, _):
            connection.execute(delete(aliases).where(aliases.c.name == name, aliases.c.alias == alias))

    def tag(self, ref: str, *labels: str) -> ModelCard:
        """Add tags to a version.

        Raises:
            UserError: there is no such version, or a tag is malformed.
        """
        for label in labels:
            check_tag(label)
        with self._changing(ref) as (connection, name, version):
            present = self._card(connection, name, version).tags
            for label in dict.fromkeys(labels):
                if label not in present:
                    connection.execute(insert(tags).values(name=name, version=version, tag=label))
            return self._card(connection, name, version)

    def untag(self, ref: str, *labels: str) -> ModelCard:
        """Take tags off a version.

        Raises:
            UserError: there is no such version, or it has no such tag.
        """
        with self._changing(ref) as (connection, name, version):
            card = self._card(connection, name, version)
            for label in labels:
                if label not in card.tags:
                    raise UserError(f"{card.ref} has no tag '{label}'; it has {', '.join(card.tags) or 'none'}")
                connection.execute(
                    delete(tags).where(tags.c.name == name, tags.c.version == version, tags.c.tag == label)
                )
            return self._card(connection, name, version)

    # --- inside one transaction ---

    @contextmanager
    def _changing(self, ref: str) -> Iterator[tuple[Connection, str, int]]:
        """A write transaction on an existing version."""
        self.get(ref)  # nothing is created, and nobody else made to wait, for a model that is not there
        with self._database.writing() as connection:
            yield (connection, *self._resolve(connection, ref))

    def _write(
        self, card: ModelCard, copies: Sequence[Staged], labels: Sequence[str], pointers: Sequence[str]
    ) -> ModelCard:
        with self._database.writing() as connection:
            last = connection.execute(select(names.c.last_version).where(names.c.name == card.name)).scalar()
            version = (last or 0) + 1
            if last is None:
                connection.execute(insert(names).values(name=card.name, last_version=version))
            else:
                connection.execute(update(names).where(names.c.name == card.name).values(last_version=version))
            for copy in copies:
                self.blobs.place(copy)
            card = card.model_copy(update={"version": version})
            text = card.model_dump_json(exclude={"tags", "aliases"})
            connection.execute(insert(versions).values(name=card.name, version=version, card=text))
            for label in labels:
                connection.execute(insert(tags).values(name=card.name, version=version, tag=label))
            for alias in pointers:
                _point(connection, card.name, alias, version)
            return self._card(connection, card.name, version)

    def _next_version(self, name: str) -> int:
        with self._database.reading() as connection:
            query = select(names.c.last_version).where(names.c.name == name)
            return (connection.execute(query).scalar() or 0) + 1 if connection is not None else 1

    def _resolve(self, connection: Connection, ref: str) -> tuple[str, int]:
        """Name and version of a reference."""
        wanted = Reference.parse(ref)
        query = select(versions.c.version).where(versions.c.name == wanted.name).order_by(versions.c.version)
        known = list(connection.execute(query).scalars())
        if not known:
            every = connection.execute(select(versions.c.name).distinct().order_by(versions.c.name)).scalars()
            raise unknown("model", wanted.name, list(every))
        if wanted.alias == LATEST:
            return wanted.name, known[-1]
        if wanted.alias is not None:
            query = select(aliases.c.alias, aliases.c.version).where(aliases.c.name == wanted.name)
            pointers: dict[str, int] = {row.alias: int(row.version) for row in connection.execute(query)}
            if wanted.alias not in pointers:
                raise UserError(
                    f"model '{wanted.name}' has no alias '{wanted.alias}'; it has {', '.join(sorted(pointers)) or 'none'}"
                )
            return wanted.name, pointers[wanted.alias]
        if wanted.version not in known:
            shown = ", ".join(map(str, known[-10:]))
            raise UserError(f"model '{wanted.name}' has no version {wanted.version}; it has {shown}")
        return wanted.name, int(wanted.version)  # type: ignore[arg-type]

    def _card(self, connection: Connection, name: str, version: int) -> ModelCard:
        one = (versions.c.name == name, versions.c.version == version)
        text = connection.execute(select(versions.c.card).where(*one)).scalar_one()
        own_tags = connection.execute(select(tags.c.tag).where(tags.c.name == name, tags.c.version == version))
        own_aliases = connection.execute(
            select(aliases.c.alias).where(aliases.c.name == name, aliases.c.version == version)
        )
        return _named(_parse(text, str(self._database)), own_tags.scalars(), own_aliases.scalars())


def _named(card: ModelCard, own_tags: Iterable[str], own_aliases: Iterable[str]) -> ModelCard:
    """A card with the tags and aliases that it has now."""
    now = {"tags": tuple(sorted(own_tags)), "aliases": tuple(sorted(own_aliases))}
    return card if now == {"tags": card.tags, "aliases": card.aliases} else card.model_copy(update=now)


def _point(connection: Connection, name: str, alias: str, version: int) -> None:
    connection.execute(delete(aliases).where(aliases.c.name == name, aliases.c.alias == alias))
    connection.execute(insert(aliases).values(name=name, alias=alias, version=version))


@lru_cache(maxsize=PARSED)
def _parse(text: str, database: str) -> ModelCard:
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"registry {database} holds a damaged card: {place}: {first['msg']}") from error


def _row_list(members: Iterable[str] | None) -> bytes | None:
    """Row ids as the bytes of their stored list, sorted.

    Raises:
        UserError: one is no row id, or there are none.
    """
    if members is None:
        return None
    rows = sorted(set(members))
    if not rows:
        raise UserError("the list of members is empty: leave it out where they are not known")
    if wrong := next((row for row in rows if not _ROW_ID.fullmatch(row)), None):
        raise UserError(
            f"{wrong[:40]!r} is no row id: members are given as the ids of a Batch, 16 hexadecimal digits each"
        )
    return ("\n".join(rows) + "\n").encode("ascii")
