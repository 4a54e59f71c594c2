"""Trust is granted to one digest, by someone, for a reason; anything that cannot be read grants nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audit.parameters import UserError
from audit.registry.scan import scan_file
from audit.registry.scan_report import ScanReport, Verdict
from audit.registry.trust import Trust

DIGEST = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path / "home")


def test_nothing_is_trusted_to_begin_with(trust: Trust) -> None:
    assert not trust.is_trusted(DIGEST)
    assert trust.packages() == ()
    assert not trust.is_allowed_package("numpy")
    assert not trust.path.exists()


def test_a_digest_is_granted_and_revoked(trust: Trust) -> None:
    trust.allow_digest(DIGEST.upper(), "ada", "built in our CI")
    assert trust.is_trusted(DIGEST)
    assert not trust.is_trusted(OTHER)
    stored = json.loads(trust.path.read_text())
    assert stored["digests"][DIGEST]["by"] == "ada"
    assert stored["digests"][DIGEST]["reason"] == "built in our CI"
    assert Trust(trust.home).is_trusted(DIGEST)
    trust.revoke(DIGEST)
    assert not trust.is_trusted(DIGEST)
    with pytest.raises(UserError, match="was not trusted"):
        trust.revoke(DIGEST)


@pytest.mark.parametrize(
    "digest", ["", "ab", "g" * 64, DIGEST + "0", DIGEST[:12], "sha256:" + DIGEST, "*", "../" + DIGEST]
)
def test_what_is_no_digest_is_never_trusted(trust: Trust, digest: str) -> None:
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        trust.allow_digest(digest, "ada", "why")
    assert not trust.is_trusted(digest)


def test_a_grant_needs_a_name_and_a_reason(trust: Trust) -> None:
    for by, reason in (("", "why"), ("ada", " ")):
        with pytest.raises(UserError, match="who trusts it and why"):
            trust.allow_digest(DIGEST, by, reason)
    assert not trust.is_trusted(DIGEST)


def test_a_package_covers_what_lies_below_it(trust: Trust) -> None:
    trust.allow_package("acme.models")
    trust.allow_package("acme.models")
    assert trust.packages() == ("acme.models",)
    for module, allowed in {
        "acme.models": True,
        "acme.models.vision": True,
        "acme.models.vision.resnet": True,
        "acme": False,
        "acme.modelszoo": False,
        "acme.other": False,
        "other.acme.models": False,
        "": False,
        "acme.models.": False,
        ".acme.models": False,
        "acme.models..x": False,
        "acme.models.x y": False,
        "acme.models:os": False,
    }.items():
        assert trust.is_allowed_package(module) is allowed, module
    trust.revoke_package("acme.models")
    assert trust.packages() == ()
    with pytest.raises(UserError, match="was not allowed"):
        trust.revoke_package("acme.models")


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "a.", "1a", "a-b", "a b", "a/b", "class", "a.import", "*", "a:b", "modèle"]
)
def test_what_is_no_package_name_is_refused(trust: Trust, name: str) -> None:
    with pytest.raises(UserError, match="no package name"):
        trust.allow_package(name)
    assert trust.packages() == ()


@pytest.mark.parametrize("name", ["os", "builtins", "subprocess", "importlib.util", "pickle"])
def test_python_itself_cannot_be_allowed(trust: Trust, name: str) -> None:
    with pytest.raises(UserError, match="belongs to Python itself"):
        trust.allow_package(name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"version": 2, "digests": {}, "packages": []}',
        b'{"version": 1, "digests": ["%s"], "packages": []}' % DIGEST.encode(),
        b'{"version": 1, "digests": {"%s": true}, "packages": []}' % DIGEST.encode(),
        b'{"version": 1, "digests": {"*": {"by": "a", "reason": "b", "at": "c"}}, "packages": []}',
        b'{"version": 1, "digests": {}, "packages": ["*"]}',
        b'{"version": 1, "digests": {}, "packages": "acme"}',
        b'{"version": 1, "digests": {}, "packages": [], "all": true}',
        b'{"version": 1, "digests": {}, "packages": ["a"], "packages": ["b"]}',
        b'{"packages":' * 100_000,
    ],
)
def test_a_damaged_file_is_one_clear_line_and_grants_nothing(trust: Trust, content: bytes) -> None:
    trust.home.mkdir()
    trust.path.write_bytes(content)
    trust.path.chmod(0o600)
    for ask in (lambda: trust.is_trusted(DIGEST), trust.packages, lambda: trust.is_allowed_package("a")):
        with pytest.raises(UserError, match="nothing is trusted until") as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        trust.allow_digest(DIGEST, "ada", "why")
    assert trust.path.read_bytes() == content  # what cannot be read is not written over


def test_the_file_is_private_and_must_stay_so(trust: Trust) -> None:
    trust.allow_digest(DIGEST, "ada", "why")
    assert stat.S_IMODE(trust.path.stat().st_mode) == 0o600
    assert sorted(path.name for path in trust.home.iterdir()) == ["trust.json", "trust.json.lock"]
    trust.path.chmod(0o620)
    with pytest.raises(UserError, match="other users"):
        trust.is_trusted(DIGEST)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_grants_nothing(trust: Trust) -> None:
    trust.allow_digest(DIGEST, "ada", "why")
    os.chown(trust.path, 12345, 12345)
    with pytest.raises(UserError, match="other users"):
        trust.is_trusted(DIGEST)


def test_a_link_or_folder_in_its_place_grants_nothing(trust: Trust, tmp_path: Path) -> None:
    trust.allow_digest(DIGEST, "ada", "why")
    trust.path.rename(tmp_path / "elsewhere.json")
    trust.path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match="nothing is trusted"):
        trust.is_trusted(DIGEST)
    trust.path.unlink()
    trust.path.mkdir()
    with pytest.raises(UserError, match="nothing is trusted"):
        trust.is_trusted(DIGEST)


def test_a_home_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="check AUDIT_HOME"):
        Trust(tmp_path / "file").allow_digest(DIGEST, "ada", "why")


def test_threads_and_programs_lose_no_grant(trust: Trust) -> None:
    root = Path(__file__).parents[2]
    program = (
        "import sys; from audit.registry.trust import Trust\n"
        "for n in range(15): Trust(sys.argv[1]).allow_digest(f'{n:02x}' + sys.argv[2] * 62, 'a program', 'test')"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(trust.home), mark], env={**os.environ, "PYTHONPATH": str(root)}
        )
        for mark in "ab"
    ]
    threads = [
        threading.Thread(
            target=lambda mark=mark: [trust.allow_digest(f"{n:02x}" + mark * 62, "a thread", "test") for n in range(15)]
        )
        for mark in "cd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in running] == [0, 0]
    assert all(trust.is_trusted(f"{n:02x}" + mark * 62) for mark in "abcd" for n in range(15))


@pytest.mark.parametrize(
    ("verdict", "trusted", "passes"),
    [
        ("clean", False, True),
        ("needs_trust", False, False),
        ("needs_trust", True, True),
        ("refused", False, False),
        ("refused", True, False),
    ],
)
def test_the_gate(trust: Trust, tmp_path: Path, verdict: Verdict, trusted: bool, passes: bool) -> None:
    report = ScanReport(tmp_path / "model.pt", DIGEST, 1, "torch_zip", verdict)
    if trusted:
        trust.allow_digest(DIGEST, "ada", "why")
    if passes:
        trust.admit(report)
    else:
        with pytest.raises(UserError, match=r"model\.pt"):
            trust.admit(report)


def test_a_damaged_trust_file_closes_the_gate_for_what_needs_trust_only(trust: Trust, tmp_path: Path) -> None:
    trust.home.mkdir()
    trust.path.write_bytes(b"{")
    trust.path.chmod(0o600)
    trust.admit(ScanReport(tmp_path / "a", DIGEST, 1, "onnx", "clean"))
    with pytest.raises(UserError, match="damaged"):
        trust.admit(ScanReport(tmp_path / "a", DIGEST, 1, "pickle", "needs_trust"))


def test_the_line_tells_how_to_trust(trust: Trust, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    report = scan_file(path)
    with pytest.raises(UserError, match=f"audit model trust {report.sha256}"):
        trust.admit(report)
