"""What stands between a file and its loader: nothing hostile runs, nothing changed opens."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import pkgutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import joblib
import pytest
import safetensors.torch
import torch

import audit.names
from audit.model import AuditedModel, Capability, Field, InputSpec, implied
from audit.parameters import UserError
from audit.registry.loaders import Loader
from audit.registry.reference import Reference
from audit.registry.scan import digest_file
from audit.registry.store import Registry

SPEC = InputSpec(fields=(Field(name="x", kind="number", shape=(2,), bounds=(-1, 1)),))
HEAD = {"factory": "assay_zoo.models:Head"}
LOADERS = ["state_dict", "torch_export", "torchscript", "skops", "xgboost", "lightgbm", "onnx", None]


@pytest.fixture(autouse=True)
def _in_tmp(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads touch ``marker`` where they run."""
    monkeypatch.chdir(tmp_path)


def add_head(registry: Registry) -> Any:
    safetensors.torch.save_file({"weight": torch.tensor([[1.0, 0.0, -1.0], [0.5, -2.0, 0.0]])}, "head.safetensors")
    return registry.add("m", "head.safetensors", parameters=HEAD, classes=3, spec=SPEC)


# --- hostile files ---


class Payload:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def system() -> Payload:
    return Payload(os.system, "touch marker")


def indirect() -> bytes:
    """``pkgutil.resolve_name("os:system")`` on the stack, called with a command."""
    name = pickle.dumps(pkgutil.resolve_name, 2)[2:-1]
    return b"\x80\x02" + name + b"X\x09\x00\x00\x00os:system\x85RX\x0c\x00\x00\x00touch marker\x85R."


def program() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.ones(2, 2),)), buffer)
    return buffer.getvalue()


def rewritten(source: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return buffer.getvalue()


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def zipped(content: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def joblib_bytes() -> bytes:
    buffer = io.BytesIO()
    joblib.dump({"hook": system(), "weights": torch.ones(3).numpy()}, buffer)
    return buffer.getvalue()


def pt2_sample_inputs() -> bytes:
    return rewritten(program(), lambda n, c: torch_bytes(system()) if n.startswith("data/sample_inputs/") else c)


def pt2_use_pickle() -> bytes:
    def change(name: str, content: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            config = json.loads(content)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config).encode()
        return torch_bytes(system()) if name.startswith("data/weights/weight_") else content

    return rewritten(program(), change)


def pt2_expression() -> bytes:
    buffer = io.BytesIO()
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.ones(2, 2),), dynamic_shapes=dynamic), buffer)
    command = "__import__('os').system('touch marker')"

    def poisoned(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: command if k == "expr_str" else poisoned(v) for k, v in node.items()}
        return [poisoned(part) for part in node] if isinstance(node, list) else node

    return rewritten(
        buffer.getvalue(), lambda n, c: json.dumps(poisoned(json.loads(c))).encode() if n.startswith("models/") else c
    )


HOSTILE: dict[str, Callable[[], bytes]] = {
    "model.pkl": lambda: pickle.dumps(system()),
    "indirect.pkl": indirect,
    "pickle.onnx": lambda: pickle.dumps(system(), 0),
    "weights.safetensors": lambda: pickle.dumps(system(), 4),
    "nested.skops": lambda: zipped(zipped(pickle.dumps(system()), "weights.npy"), "schema.json"),
    "nested.txt": lambda: zipped(pickle.dumps(system()), "readme.txt"),
    "model.joblib": joblib_bytes,
    "model.pkl.gz": lambda: gzip.compress(pickle.dumps(system())),
    "model.pt": lambda: torch_bytes({"weight": torch.ones(2, 3), "hook": system()}),
    "inputs.pt2": pt2_sample_inputs,
    "weights.pt2": pt2_use_pickle,
    "expression.pt2": pt2_expression,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_file_runs(name: str, registry: Registry) -> None:
    Path(name).write_bytes(HOSTILE[name]())
    for loader in LOADERS:
        parameters = HEAD if loader == "state_dict" else {}
        with pytest.raises(UserError) as error:
            registry.add("m", name, loader=loader, parameters=parameters, classes=3, spec=SPEC, output="logit")
        assert "\n" not in str(error.value)
        assert name in str(error.value)
    assert not Path("marker").exists()
    assert registry.list() == []


@pytest.mark.parametrize("name", [n for n in HOSTILE if not n.endswith(".pt2")])
def test_trusting_the_digest_opens_no_pickle(name: str, registry: Registry) -> None:
    """There is no loader that unpickles: trust cannot make one."""
    Path(name).write_bytes(HOSTILE[name]())
    registry.trust.allow_digest(digest_file(name), "tester", "to see")
    for loader in LOADERS:
        parameters = HEAD if loader == "state_dict" else {}
        with pytest.raises(UserError):
            registry.add("m", name, loader=loader, parameters=parameters, classes=3, spec=SPEC, output="logit")
    assert not Path("marker").exists()


@pytest.mark.parametrize("name", [n for n in HOSTILE if n.endswith(".pt2")])
@pytest.mark.filterwarnings("ignore")
def test_the_payloads_are_live(name: str, registry: Registry) -> None:
    """The control: once its digest is trusted, an exported program does run what it brings."""
    Path(name).write_bytes(HOSTILE[name]())
    registry.trust.allow_digest(digest_file(name), "tester", "to see it run")
    with suppress(UserError):
        registry.add("m", name, classes=3, spec=SPEC)
    assert Path("marker").exists()


def test_a_plain_pickle_payload_is_live_too() -> None:
    with pytest.raises((pickle.UnpicklingError, EOFError, TypeError)):
        pickle.loads(indirect()[:-1])
    pickle.loads(indirect())
    assert Path("marker").exists()


# --- files that are not what they seem ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is refused: it is empty"),
        (b"hello, this is no model", "no model format that is read here"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "an HDF5 file"),
        (b"\xff" * 8 + b"{" + b"\0" * 100, "refused"),
        (b'{"a": 1}', "is JSON, but no XGBoost model"),
    ],
)
def test_what_is_no_model_is_one_line(content: bytes, said: str, registry: Registry) -> None:
    Path("odd.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        registry.add("m", "odd.safetensors", parameters=HEAD, classes=3, spec=SPEC)
    assert "\n" not in str(error.value)
    assert registry.list() == []


def test_a_file_is_told_by_its_content_not_its_name(registry: Registry) -> None:
    add_head(registry)
    Path("head.safetensors").rename("head.onnx")
    assert registry.add("m", "head.onnx", parameters=HEAD, classes=3, spec=SPEC).loader == "state_dict"


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c[:20], lambda c: c + b"\0", lambda c: c + c])
def test_truncated_and_oversized_files_are_refused(spoil: Any, registry: Registry) -> None:
    add_head(registry)
    path = Path("head.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=r"head\.safetensors is refused") as error:
        registry.add("n", path, parameters=HEAD, classes=3, spec=SPEC)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.safetensors", "there is no file nowhere.safetensors"),
        ("file:///nowhere/w.safetensors", "there is no file /nowhere/w.safetensors"),
        ("file://host/w.safetensors", "is on another machine"),
        ("https://example.org/w.safetensors", "nothing is downloaded here"),
        (".", "is no model folder"),
        ("pipe", "is no regular file"),
    ],
)
def test_sources_that_are_no_file(source: str, said: str, registry: Registry) -> None:
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=said):
        registry.add("m", source, parameters=HEAD, classes=3, spec=SPEC)


def test_a_file_uri_is_a_path(registry: Registry) -> None:
    add_head(registry)
    Path("head.safetensors").rename("my head.safetensors")
    uri = f"file://{Path.cwd()}/my%20head.safetensors"
    assert list(registry.add("m", uri, parameters=HEAD, classes=3, spec=SPEC).files) == ["my head.safetensors"]


# --- after registration ---


def blob_of(registry: Registry) -> Path:
    blob = registry.blobs.path(next(iter(registry.get("m").files.values())))
    blob.chmod(0o644)
    return blob


def test_a_changed_blob_is_refused(registry: Registry) -> None:
    add_head(registry)
    registry.open("m")
    blob = blob_of(registry)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1  # still a well-formed safetensors file
    blob.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"file head\.safetensors of m@1 was changed after it was registered"):
        registry.open("m")
    add_head(registry)  # the same file again repairs it
    assert registry.open("m@1").classes == ("0", "1", "2")


def test_a_blob_that_is_a_payload_now_does_not_run(registry: Registry) -> None:
    add_head(registry)
    blob_of(registry).write_bytes(pickle.dumps(system()))
    with pytest.raises(UserError, match="was changed after it was registered"):
        registry.open("m")
    assert not Path("marker").exists()


def test_a_missing_blob_is_named(registry: Registry) -> None:
    add_head(registry)
    blob_of(registry).unlink()
    with pytest.raises(UserError, match=r"head\.safetensors of m@1 is missing from .*blobs"):
        registry.open("m")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("assay_zoo.models:Head", "assay_zoo.models:mlp"),
        ('"bounds":[-1.0,1.0]', '"bounds":[-9.0,9.0]'),
        ('"output":"logit"', '"output":"probability"'),
        ('"classes":["0","1","2"]', '"classes":["2","1","0"]'),
        ('"loader":"state_dict"', '"loader":"torchscript"'),
    ],
)
def test_a_changed_card_is_refused(old: str, new: str, registry: Registry) -> None:
    add_head(registry)
    connection = sqlite3.connect(registry.home / "registry.sqlite")
    with connection:
        (before,) = connection.execute("SELECT card FROM versions").fetchone()
        assert old in before
        connection.execute("UPDATE versions SET card = ?", (before.replace(old, new),))
    connection.close()
    with pytest.raises(UserError, match="entry of m@1 was changed after it was registered"):
        registry.open("m")


def test_a_card_that_points_at_a_pickle_is_scanned_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared database may say anything, digest included; the file is scanned wherever it comes from."""
    from audit.registry import opening

    card = add_head(registry)
    hostile = pickle.dumps(system())
    Path("evil").write_bytes(hostile)
    staged = registry.blobs.stage(Path("evil"))
    registry.blobs.place(staged)
    forged = card.model_copy(update={"files": {"head.safetensors": staged.sha256}})
    forged = forged.model_copy(update={"digest": opening.card_digest(forged)})
    with pytest.raises(UserError, match=r"head\.safetensors is a pickle file; loader 'state_dict' opens"):
        opening.open_card(forged, registry.blobs, registry.trust)
    assert not Path("marker").exists()


# --- loaders of other packages ---


class Threshold(Loader):
    """A format of a plug-in's own."""

    formats: ClassVar = ("unknown",)

    def capabilities(self, output: Any) -> frozenset[Capability]:
        return implied(output, gradients=False, layers=False)

    def load(self, card: Any, files: Any, trust: Any) -> AuditedModel:
        threshold = json.loads(next(iter(files.values())).read_text())["threshold"]
        return AuditedModel(
            name=card.ref, digest=card.digest, task=card.task, classes=card.classes, spec=card.spec, output=card.output,
            capabilities=self.capabilities(card.output), forward=lambda x: x[:, 0] - threshold,
        )  # fmt: skip


def test_a_format_of_a_plug_in_opens_where_its_digest_is_trusted(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry:
        def load(self) -> Any:
            return Threshold

    monkeypatch.setattr(audit.names, "_installed", lambda group: {"threshold": Entry()} if group == "loaders" else {})
    Path("t.json").write_text('{"threshold": 0.25}')
    declared: dict[str, Any] = {"classes": 2, "spec": SPEC, "output": "margin"}
    with pytest.raises(UserError, match="is JSON, but no XGBoost model"):
        registry.add("t", "t.json", **declared)
    with pytest.raises(UserError, match=r"only loader 'threshold' knows, .* `audit model trust [0-9a-f]{64}`"):
        registry.add("t", "t.json", loader="threshold", **declared)
    registry.trust.allow_digest(digest_file("t.json"), "tester", "made here")
    registry.add("t", "t.json", loader="threshold", **declared)
    assert registry.open("t").predict(torch.tensor([[0.2, 0.0], [0.3, 0.0]])).tolist() == [0, 1]
    registry.trust.revoke(digest_file("t.json"))
    with pytest.raises(UserError, match="audit model trust"):
        registry.open("t")


def test_references() -> None:
    assert Reference.parse("a.b-c_1") == Reference("a.b-c_1", None, "latest")
    assert Reference.parse("m@12") == Reference("m", 12, None)
    assert Reference.parse("m@production") == Reference("m", None, "production")
