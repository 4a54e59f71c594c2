"""The registry: versions, aliases, files by content, and many processes at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from audit.model import Field, InputSpec
from audit.parameters import UserError
from audit.registry import database
from audit.registry.card import ModelCard
from audit.registry.store import Registry

SPEC = InputSpec(fields=(Field(name="x", kind="number", shape=(2,), bounds=(-1, 1)),))
IDS = (*(f"{i:016x}" for i in range(5)), "00000000000000ff-1")


@pytest.fixture(autouse=True)
def _zoo(zoo: Path) -> None:
    """Every test finds the package."""


def weights(folder: Path, value: float, name: str = "w.safetensors") -> Path:
    safetensors.torch.save_file({"weight": torch.full((2, 3), value) * torch.tensor([1.0, 2.0, 4.0])}, folder / name)
    return folder / name


def add(registry: Registry, path: Path, name: str = "m", **declared: Any) -> ModelCard:
    parameters = {"factory": "assay_zoo.models:Head"}
    return registry.add(name, path, **{"parameters": parameters, "classes": 3, "spec": SPEC, **declared})


def blobs(registry: Registry) -> set[str]:
    return {path.name for path in registry.blobs.root.glob("??/*")}


def leftovers(registry: Registry) -> list[Path]:
    return list(registry.blobs.root.glob(".incoming/*"))


# --- versions, aliases, tags ---


def test_every_add_makes_the_next_version(registry: Registry, tmp_path: Path) -> None:
    first = add(registry, weights(tmp_path, 1.0), tags=["old"], aliases=["production"])
    second = add(registry, weights(tmp_path, 2.0))
    assert [c.ref for c in registry.list()] == ["m@2", "m@1"]
    assert registry.get("m") == registry.get("m@latest") == registry.get("m@2") == second
    assert registry.get("m@1") == registry.get("m@production") == first
    assert (first.tags, first.aliases, second.tags, second.aliases) == (("old",), ("production",), (), ())
    assert first.digest != second.digest
    assert second.added_by
    assert second.added_at.endswith("+00:00")
    assert second.source == str(tmp_path / "w.safetensors")
    assert registry.open("m@1").scores(torch.ones(1, 2)).tolist() == [[2.0, 4.0, 8.0]]
    assert registry.open("m").name == "m@2"
    assert registry.open("m").digest == second.digest
    assert leftovers(registry) == []


def test_the_digest_says_what_the_model_is(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, 1.0)
    same = add(registry, path).digest
    assert add(registry, path, name="other", tags=["t"]).digest == same
    renamed = path.rename(tmp_path / "elsewhere.bin")
    assert add(registry, renamed).digest == same
    bounded = InputSpec(fields=(Field(name="x", kind="number", shape=(2,), bounds=(-2, 2)),))
    parameters = {"factory": "assay_zoo.models:Head", "micro_batch": 9}
    others = [
        add(registry, renamed, spec=bounded).digest,
        add(registry, renamed, classes=["a", "b", "c"]).digest,
        add(registry, renamed, parameters=parameters).digest,
        add(registry, weights(tmp_path, 2.0)).digest,
    ]
    assert len({same, *others}) == 5


def test_a_user_without_a_name_is_told_by_number(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    def nobody(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert add(registry, weights(tmp_path, 1.0)).added_by == f"uid {os.getuid()}"


def test_aliases_move_between_versions_of_a_model(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, 1.0)
    add(registry, path, aliases=["production"])
    add(registry, path)
    add(registry, path, name="other", aliases=["production"])
    assert registry.set_alias("m@2", "production").aliases == ("production",)
    assert registry.get("m@production").version == 2
    assert registry.get("m@1").aliases == ()
    assert registry.get("other@production").ref == "other@1"
    add(registry, path, aliases=["production", "canary"])
    assert registry.get("m@production").version == 3
    registry.remove_alias("m", "production")
    with pytest.raises(UserError, match="has no alias 'production'; it has canary"):
        registry.get("m@production")
    with pytest.raises(UserError, match="has no alias 'production'"):
        registry.remove_alias("m", "production")
    assert registry.get("other@production").ref == "other@1"


def test_tags(registry: Registry, tmp_path: Path) -> None:
    add(registry, weights(tmp_path, 1.0), tags=["b", "b"])
    assert registry.tag("m", "a", "b", "a").tags == ("a", "b")
    assert registry.untag("m@1", "b").tags == ("a",)
    with pytest.raises(UserError, match="m@1 has no tag 'b'; it has a"):
        registry.untag("m", "b")


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("n", "there is no model 'n'; did you mean|there is no model 'n'; known: m"),
        ("m@7", "has no version 7; it has 1"),
        ("m@prod", "has no alias 'prod'; it has none"),
        ("m@", "refers to no model"),
        ("m@1.5", "refers to no model"),
        ("m@@1", "refers to no model"),
        ("", "is no model name"),
        ("../m", "is no model name"),
        ("m\n", "is no model name"),
    ],
)
def test_references_that_lead_nowhere(ref: str, said: str, registry: Registry, tmp_path: Path) -> None:
    add(registry, weights(tmp_path, 1.0))
    for ask in (registry.get, registry.open, registry.remove):
        with pytest.raises(UserError, match=said):
            ask(ref)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"name": "a b"}, "is no model name"),
        ({"name": "-a"}, "is no model name"),
        ({"aliases": ["latest"]}, "always means the newest version"),
        ({"aliases": ["3"]}, "'3' is no alias"),
        ({"tags": ["a b"]}, "'a b' is no tag"),
        ({"members": ["x"]}, "'x' is no row id"),
        ({"members": []}, "list of members is empty"),
        ({"loader": "statedict"}, "there is no loader 'statedict'; did you mean 'state_dict'"),
        ({"parameters": {}}, "loader 'state_dict' needs 'factory': package.module:function that returns the module"),
        ({"parameters": {"factory": "assay_zoo.models:Head", "micro_batch": 0}}, "parameter 'micro_batch'"),
        ({"loader": "onnx", "parameters": {}}, "is a safetensors file; loader 'onnx' opens onnx"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing(
    declared: dict[str, Any], said: str, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as error:
        add(registry, weights(tmp_path, 1.0), **declared)
    assert "\n" not in str(error.value)
    assert registry.list() == []
    assert blobs(registry) == set()
    assert leftovers(registry) == []


def test_nothing_is_created_by_looking(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home")
    assert registry.list() == []
    for ask in (registry.get, registry.open, registry.remove, lambda ref: registry.set_alias(ref, "a")):
        with pytest.raises(UserError, match="there is no model 'm'; known: none"):
            ask("m")
    assert not (tmp_path / "home").exists()


# --- files ---


def test_removing_deletes_files_that_no_other_version_has(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, 1.0)
    first = add(registry, path, members=IDS, aliases=["a"], tags=["t"])
    add(registry, path, name="twin")
    other = add(registry, weights(tmp_path, 2.0))
    shared, own = next(iter(first.files.values())), next(iter(other.files.values()))
    assert blobs(registry) == {shared, own, first.members}
    card, freed = registry.remove("m@a")
    assert (card.ref, freed) == ("m@1", 17 * 5 + 19)
    assert blobs(registry) == {shared, own}
    assert registry.remove("m")[0].ref == "m@2"
    assert blobs(registry) == {shared}
    registry.remove("twin")
    assert blobs(registry) == set()
    assert registry.list() == []


def test_a_removed_versions_number_is_not_used_again(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, 1.0)
    add(registry, path, aliases=["a"])
    add(registry, path)
    registry.remove("m@2")
    assert registry.get("m").version == 1
    assert add(registry, path).version == 3
    registry.remove("m@1")
    with pytest.raises(UserError, match="no alias 'a'"):
        registry.get("m@a")


def test_blobs_are_named_by_their_content_and_read_only(registry: Registry, tmp_path: Path) -> None:
    import hashlib

    path = weights(tmp_path, 1.0)
    card = add(registry, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.files == {"w.safetensors": sha256}
    blob = registry.home / "blobs" / sha256[:2] / sha256
    assert blob.read_bytes() == path.read_bytes()
    assert blob.stat().st_mode & 0o777 == 0o444


def test_the_privacy_ledger_is_kept_with_the_version(registry: Registry, tmp_path: Path) -> None:
    card = add(registry, weights(tmp_path, 1.0), ledger=b'{"delta": 1e-5}')
    add(registry, weights(tmp_path, 2.0))
    registry.remove("m@2")
    assert registry.ledger(registry.get("m")) == b'{"delta": 1e-5}', "a sweep keeps it"
    assert registry.open("m").ledger == '{"delta": 1e-5}', "checks find it with the model"
    assert registry.ledger(add(registry, weights(tmp_path, 1.0))) is None
    assert card.ledger is not None
    blob = registry.blobs.path(card.ledger)
    blob.chmod(0o600)
    blob.write_bytes(b"{}")
    with pytest.raises(UserError, match="privacy ledger of m@1 was changed"):
        registry.ledger(card)


def test_members_are_kept_with_the_version(registry: Registry, tmp_path: Path) -> None:
    card = add(registry, weights(tmp_path, 1.0), members=IDS)
    assert registry.members(registry.get("m")) == frozenset(IDS)
    assert registry.members(add(registry, weights(tmp_path, 1.0))) is None
    assert card.members is not None
    blob = registry.blobs.path(card.members)
    blob.chmod(0o644)
    blob.write_text("0" * 16 + "\n")
    with pytest.raises(UserError, match="list of members of m@1 was changed"):
        registry.members(card)


def test_an_abandoned_copy_is_swept(registry: Registry, tmp_path: Path) -> None:
    add(registry, weights(tmp_path, 1.0))
    old, young = (registry.blobs.root / ".incoming" / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part").write_text("x")
    os.utime(old, (time.time() - 90_000,) * 2)
    registry.remove("m")
    assert leftovers(registry) == [young]


# --- other databases ---


def test_any_url_in_place_of_the_embedded_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'shared' / 'team.db'}"
    one = Registry(tmp_path / "ann", url, tmp_path / "files")
    one.trust.allow_package("assay_zoo")
    add(one, weights(tmp_path, 1.0))
    assert not (tmp_path / "ann" / "registry.sqlite").exists()
    assert (tmp_path / "shared" / "team.db").exists()
    monkeypatch.setenv("AUDIT_REGISTRY_URL", url)
    monkeypatch.setenv("AUDIT_BLOBS", str(tmp_path / "files"))
    two = Registry(tmp_path / "bob")
    assert [c.ref for c in two.list()] == ["m@1"]
    with pytest.raises(UserError, match="audit model allow assay_zoo"):  # trust is each user's own
        two.open("m")
    two.trust.allow_package("assay_zoo")
    assert two.open("m").classes == ("0", "1", "2")
    monkeypatch.delenv("AUDIT_BLOBS")
    with pytest.raises(UserError, match=r"file w.safetensors of m@1 is missing from"):
        Registry(tmp_path / "ann").open("m")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "registry URL nonsense cannot be used"),
        ("oracle9://x/y", "cannot be used"),
        ("postgresql+nodriver://ann:secret@host/db", r"postgresql\+nodriver://…@host/db cannot be used"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as error:
        Registry(tmp_path, url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


# --- damage ---


def test_a_home_that_cannot_be_written(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "file").write_text("x")
    blocked = Registry(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot store .* in .*: Not a directory"):
        add(blocked, weights(tmp_path, 1.0), parameters={"factory": "assay_zoo.models:Head"})
    elsewhere = Registry(tmp_path / "home", f"sqlite:///{tmp_path}/file/x.db")
    with pytest.raises(UserError, match="cannot make its folder"):
        add(elsewhere, weights(tmp_path, 1.0))
    assert leftovers(elsewhere) == []


def test_a_disk_that_is_full_is_one_line(registry: Registry, tmp_path: Path) -> None:
    """A limit on file sizes stands in for the full disk: the write fails half-way all the same."""
    path = weights(tmp_path, 1.0)
    with path.open("ab") as file:
        file.truncate(1 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot store .*w\.safetensors in .*: File too large"):
            add(registry, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert leftovers(registry) == []
    assert registry.list() == []


def test_a_database_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="file is not a database") as error:
        Registry(tmp_path).list()
    assert "\n" not in str(error.value)


def edit(registry: Registry, statement: str, *values: Any) -> None:
    with sqlite3.connect(registry.home / "registry.sqlite") as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


def test_a_database_of_another_format_is_refused(registry: Registry, tmp_path: Path) -> None:
    add(registry, weights(tmp_path, 1.0))
    edit(registry, "UPDATE registry SET format = 99")
    for ask in (Registry(registry.home).list, lambda: add(Registry(registry.home), weights(tmp_path, 1.0))):
        with pytest.raises(UserError, match="has format 99, this version of assay reads format 1"):
            ask()


def test_a_damaged_card_is_one_line(registry: Registry, tmp_path: Path) -> None:
    add(registry, weights(tmp_path, 1.0))
    edit(registry, "UPDATE versions SET card = replace(card, '\"logit\"', '\"loud\"')")
    with pytest.raises(UserError, match=r"registry\.sqlite holds a damaged card: output") as error:
        registry.get("m")
    assert "\n" not in str(error.value)


def test_a_locked_database_is_waited_for_and_then_named(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, weights(tmp_path, 1.0))
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.2)
    hasty = Registry(registry.home)
    holder = sqlite3.connect(registry.home / "registry.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        assert [c.ref for c in hasty.list()] == ["m@1"]  # readers do not wait
        with pytest.raises(UserError, match=r"another process kept it locked for 0\.2 seconds"):
            hasty.tag("m", "t")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert hasty.tag("m", "t").tags == ("t",)


# --- many processes at once ---


def _adds(home: Path, path: Path, count: int, barrier: Any) -> None:
    registry = Registry(home)
    barrier.wait()
    for _ in range(count):
        add(registry, path)


def _adds_slowly(home: Path, path: Path, count: int, barrier: Any) -> None:
    """Dawdles between placing the file and writing it down."""
    registry = Registry(home)
    place = registry.blobs.place

    def placed(staged: Any) -> None:
        place(staged)
        time.sleep(0.1)

    registry.blobs.place = placed  # type: ignore[method-assign]
    barrier.wait()
    for _ in range(count):
        assert registry.blobs.path(next(iter(add(registry, path).files.values()))).exists()
        registry.remove("m")
    add(registry, path)


def _adds_and_removes(home: Path, path: Path, count: int, barrier: Any) -> None:
    """Dawdles between looking what is referred to and deleting the rest."""
    registry = Registry(home)
    sweep = registry.blobs.sweep

    def swept(kept: Any) -> Any:
        time.sleep(0.1)
        return sweep(kept)

    registry.blobs.sweep = swept  # type: ignore[method-assign]
    barrier.wait()
    for _ in range(count):
        registry.remove(add(registry, path, name="passing").ref)


def _adds_for_ever(home: Path, path: Path, barrier: Any) -> None:
    registry = Registry(home)
    barrier.wait()
    while True:
        add(registry, path)


def together(home: Path, jobs: list[tuple[Any, tuple[Any, ...]]]) -> list[Any]:
    """Start one process per job; all begin at once."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(jobs) + 1)
    processes = [context.Process(target=job, args=(home, *arguments, barrier)) for job, arguments in jobs]
    for process in processes:
        process.start()
    barrier.wait(60)
    return processes


def test_processes_that_add_at_once_lose_nothing(registry: Registry, tmp_path: Path) -> None:
    """The database itself is made by whoever comes first."""
    paths = [weights(tmp_path, float(i), f"w{i}.safetensors") for i in range(1, 5)]
    processes = together(registry.home, [(_adds, (path, 6)) for path in paths])
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    assert sorted(c.version for c in registry.list()) == list(range(1, 25))
    for i, path in enumerate(paths, 1):
        mine = [c for c in registry.list() if path.name in c.files]
        assert len(mine) == 6
        assert registry.open(mine[0].ref).scores(torch.ones(1, 2))[0, 0] == 2.0 * i
    assert leftovers(registry) == []


def test_a_sweep_never_takes_a_file_that_another_process_adds(registry: Registry, tmp_path: Path) -> None:
    """Both use the same file, so every removal finds it unreferenced, or just not."""
    path = weights(tmp_path, 1.0)
    processes = together(registry.home, [(_adds_slowly, (path, 5)), (_adds_and_removes, (path, 8))])
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    assert [c.ref for c in registry.list()] == ["m@6"]
    assert registry.open("m").classes == ("0", "1", "2")


def test_a_sweep_holds_off_whoever_adds(registry: Registry, tmp_path: Path) -> None:
    """The same, with the other writer let in at the worst moment: after looking what is referred to, before deleting."""
    path = weights(tmp_path, 1.0)
    add(registry, path)
    adder = threading.Thread(target=lambda: add(Registry(registry.home), path, name="other"))
    sweep = registry.blobs.sweep

    def swept(kept: Any) -> Any:
        adder.start()
        adder.join(0.7)
        return sweep(kept)

    registry.blobs.sweep = swept  # type: ignore[method-assign]
    registry.remove("m")
    adder.join(60)
    assert [c.ref for c in registry.list()] == ["other@1"]
    assert registry.open("other").classes == ("0", "1", "2")


def test_a_process_killed_while_adding_leaves_a_registry_that_works(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, 1.0)
    for delay in (0.02, 0.05, 0.11, 0.19):
        (process,) = together(registry.home, [(_adds_for_ever, (path,))])
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join(20)
    card = add(registry, path)
    assert [c.version for c in registry.list()] == list(range(card.version, 0, -1))
    for found in registry.list()[:3]:
        assert registry.open(found.ref).digest == card.digest
