"""The registry's tables, in SQLite below ``AUDIT_HOME`` or at any SQLAlchemy URL, and one writer at a time.

Every write transaction first updates one row (SQLite: takes the write lock), so that writers queue up on any database. SQLite keeps
its rollback journal: a registry that is only read can then lie on read-only storage, which WAL does not allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from audit.parameters import UserError

FORMAT = 1
BUSY_TIMEOUT = 60.0
"""Seconds a process waits for another's write transaction."""

metadata = MetaData()
state = Table(
    "registry",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("format", Integer, nullable=False),
    Column("writes", BigInteger, nullable=False),
)
names = Table(
    "names",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("last_version", Integer, nullable=False),  # never goes back: a removed version's number is not used again
)
versions = Table(
    "versions",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("card", Text, nullable=False),  # JSON of the card without what its owner may change: aliases, tags
)
aliases = Table(
    "aliases",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("alias", String(100), primary_key=True),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], ondelete="CASCADE"),
)
tags = Table(
    "tags",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("tag", String(100), primary_key=True),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], ondelete="CASCADE"),
)


class Database:
    """The tables at one URL. Nothing is created before the first write.

    Args:
        url: any SQLAlchemy URL.

    Raises:
        UserError: the URL is malformed or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            sqlite = self._url.get_backend_name() == "sqlite"
            self._engine = create_engine(
                self._url,
                connect_args={"timeout": BUSY_TIMEOUT} if sqlite else {},
                poolclass=NullPool,  # a connection is never carried across a fork
            )
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise UserError(
                f"registry URL {_shown(url)} cannot be used: {str(error).splitlines()[0]}; "
                "expected 'sqlite:///FILE' or another SQLAlchemy URL whose driver is installed"
            ) from error
        self._file = Path(self._url.database) if sqlite and self._url.database not in (None, "", ":memory:") else None
        self._ready = False
        if sqlite:
            _set_up_sqlite(self._engine)

    def __str__(self) -> str:
        return str(self._file) if self._file else self._url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """A read transaction; None where the registry was never written."""
        if self._file and not self._file.exists():
            yield None
            return
        with self._plain_errors(), self._engine.connect() as connection, connection.begin():
            if not self._ready and not inspect(connection).has_table(state.name):
                yield None
                return
            self._check_format(connection)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction that no other write of any process overlaps; committed on leaving, undone by an exception."""
        self._create()
        with self._plain_errors(), self._engine.connect() as connection:
            connection = connection.execution_options(audit_writes=True)
            with connection.begin():
                connection.execute(update(state).values(writes=state.c.writes + 1))
                self._check_format(connection)
                yield connection

    def _create(self) -> None:
        if self._ready:
            return
        if self._file:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"registry {self}: cannot make its folder: {error.strerror}") from error
        with self._plain_errors():
            try:
                self._create_tables()
            except (IntegrityError, DBAPIError):  # another process made them between our look and our try
                self._create_tables()

    def _create_tables(self) -> None:
        with self._engine.connect() as connection:
            connection = connection.execution_options(audit_writes=True)
            with connection.begin():
                metadata.create_all(connection)
                if connection.execute(select(state.c.id)).first() is None:
                    connection.execute(insert(state).values(id=1, format=FORMAT, writes=0))

    def _check_format(self, connection: Connection) -> None:
        if self._ready:
            return
        found = connection.execute(select(state.c.format)).scalar()
        if found != FORMAT:
            raise UserError(f"registry {self} has format {found}, this version of assay reads format {FORMAT}")
        self._ready = True

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            reason = next(iter(str(cause).splitlines()), "") or type(cause).__name__
            if "database is locked" in reason:
                reason = f"another process kept it locked for {BUSY_TIMEOUT:g} seconds"
            raise UserError(f"registry {self}: {reason}") from error


def _shown(url: str) -> str:
    """A URL without what may be a password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url


def _set_up_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(dbapi_connection: object, record: object) -> None:
        dbapi_connection.isolation_level = None  # type: ignore[attr-defined]  # the driver opens no transactions of its own
        dbapi_connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock at once and waits for it; upgrading a read lock later could only fail
        writes = connection.get_execution_options().get("audit_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
