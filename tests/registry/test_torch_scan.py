"""torch archives: weights are clean exactly where torch's own weights-only unpickler is content; programs never are."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._weights_only_unpickler as torch_unpickler

from audit.parameters import UserError
from audit.registry.pickle_names import STORAGE_ITEMSIZE, WEIGHTS_ONLY_GLOBALS, WEIGHTS_ONLY_OPCODES
from audit.registry.scan import ScanReport, scan_file
from audit.registry.torch_scan import is_plain_expression
from audit.registry.trust import Trust

EXPRESSION = "__import__('os').system('touch marker')"


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch marker",)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(path: Path) -> ScanReport:
    report = scan_file(path)
    if report.verdict != "clean":
        with pytest.raises(UserError):
            Trust(Path("home")).admit(report)
    assert not Path("marker").exists()
    return report


def saved(value: Any, name: str = "model.pt", **options: Any) -> Path:
    torch.save(value, name, **options)
    return Path(name)


def rewritten(source: bytes, change: Callable[[str, bytes], bytes]) -> Path:
    """The archive with each member's content passed through ``change(name inside the archive, content)``."""
    path = Path("tampered.bin")
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return path


def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )


# weights


@pytest.mark.parametrize(
    "value",
    [
        module().state_dict(),
        {
            "epoch": 3,
            "model": module().state_dict(),
            "name": "résumé",
            "loss": [0.5, None, True],
            "size": torch.Size([1, 2]),
        },
        {f"layer{n}": torch.ones(2) for n in range(400)},  # more memo entries than one byte counts
        {"bf16": torch.ones(2, dtype=torch.bfloat16), "u16": torch.ones(3, dtype=torch.uint16), "b": torch.ones(3) > 0},
        {"c": torch.ones(2, dtype=torch.complex64), "f8": torch.ones(2).to(torch.float8_e4m3fn), "e": torch.empty(0)},
        {"p": torch.nn.Parameter(torch.ones(2)), "view": torch.arange(10)[2:8:2], "sparse": torch.eye(3).to_sparse()},
        {"set": {1, 2}, "bytes": b"abc", "complex": 1j, "device": torch.device("cpu"), "dtype": torch.float32},
    ],
)
def test_what_torch_loads_with_weights_only_is_clean(value: Any) -> None:
    path = saved(value)
    torch.load(path, weights_only=True)
    report = judged(path)
    assert (report.format, report.verdict, report.findings) == ("torch_zip", "clean", ())


def test_a_renamed_file_is_told_by_its_content() -> None:
    assert judged(saved(module().state_dict(), "model.onnx")).format == "torch_zip"


def test_a_whole_module_needs_trust_and_names_its_classes() -> None:
    path = saved(module())
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    report = judged(path)
    assert (report.format, report.verdict) == ("torch_zip", "needs_trust")
    assert any(issue.what == "import of torch.nn.modules.container.Sequential" for issue in report.findings)
    assert "data.pkl" in report.findings[0].where


def test_a_payload_in_weights_is_named() -> None:
    path = saved({"weight": torch.ones(2), "hook": Payload()})
    report = judged(path)
    assert report.verdict == "needs_trust"
    assert str(report.findings[0]).startswith(("posix.system('touch marker'), which runs code (byte ", "os.system("))
    torch.load(path, weights_only=False)  # the control
    assert Path("marker").exists()


def test_a_payload_in_the_place_of_a_tensor_is_seen() -> None:
    source = saved({"weight": torch.ones(40)}).read_bytes()
    payload = pickle.dumps(Payload())
    path = rewritten(source, lambda name, content: payload.ljust(160, b"\0") if name == "data/0" else content)
    assert judged(path).verdict == "needs_trust"


def test_other_opcodes_than_torch_reads_need_trust() -> None:
    source = saved({"weight": torch.ones(2)}).read_bytes()
    path = rewritten(
        source, lambda name, content: pickle.dumps({"a": frozenset()}, 4) if name == "data.pkl" else content
    )
    report = judged(path)
    assert report.verdict == "needs_trust"
    assert any("opcode FRAME" in issue.what for issue in report.findings)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"K\x02tq", b"K\x7ftq", "storage '0' of 508 bytes"),  # a storage that is larger than the archive holds
        (b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x009q", "does not hold it"),
        (b"u.", b"u", "truncated or damaged"),
        (b"u.", b"u.N.", "2 pickles in place of one"),
        (b"u.", b"u.\xff\xff", "no pickle follow"),
        (b"u.", b"uh\x77.", "never stored"),
    ],
)
def test_damaged_weights_are_refused(old: bytes, new: bytes, said: str) -> None:
    source = saved({"weight": torch.ones(2), "bias": 1}).read_bytes()

    def change(name: str, content: bytes) -> bytes:
        assert name != "data.pkl" or old in content
        return content.replace(old, new) if name == "data.pkl" else content

    report = judged(rewritten(source, change))
    assert report.verdict == "refused"
    assert said in report.summary


def test_persistent_ids_other_than_storages_need_trust() -> None:
    source = saved({"weight": torch.ones(2)}).read_bytes()
    path = rewritten(
        source, lambda name, content: content.replace(b"storage", b"modules") if name == "data.pkl" else content
    )
    report = judged(path)
    assert report.verdict == "needs_trust"
    assert any("names no storage" in issue.what for issue in report.findings)


def test_members_that_do_not_belong_are_refused() -> None:
    path = saved({"weight": torch.ones(2)})
    for name in ("model/extra.pkl", "other/data.pkl", "model/DATA.PKL", "model/data/0/1"):
        content = Path("more.pt")
        content.write_bytes(path.read_bytes())
        with zipfile.ZipFile(content, "a") as archive:
            archive.writestr(name, pickle.dumps([1]))
        assert judged(content).verdict == "refused"


# reference: torch's own list


def test_the_allow_list_is_no_wider_than_torchs_own() -> None:
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    torch_allows = set(torch_unpickler._get_allowed_globals())
    for module_name, name in WEIGHTS_ONLY_GLOBALS:
        real = NAME_MAPPING.get((module_name, name), (IMPORT_MAPPING.get(module_name, module_name), name))
        assert ".".join(real) in torch_allows
    ours = {f"{module_name}.{name}" for module_name, name in WEIGHTS_ONLY_GLOBALS}
    assert torch_allows - ours == {"torch.storage.TypedStorage"}  # as a storage's type it has no item size
    assert not [
        module_name for module_name, _ in WEIGHTS_ONLY_GLOBALS if module_name in torch_unpickler._blocklisted_modules
    ]


def test_the_opcodes_are_those_that_torch_implements() -> None:
    imported = {
        name for name in vars(torch_unpickler) if name.isupper() and isinstance(vars(torch_unpickler)[name], bytes)
    }
    assert imported == WEIGHTS_ONLY_OPCODES


def test_item_sizes_are_torchs_own() -> None:
    for (module_name, name), size in STORAGE_ITEMSIZE.items():
        if name != "UntypedStorage":
            dtype = torch.serialization.StorageType(name).dtype
            assert torch._utils._element_size(dtype) == size, (module_name, name)


def test_clean_weights_never_hold_a_global_that_torch_does_not_allow() -> None:
    """Reference: on damaged ``data.pkl`` members, our clean is never wider than torch's reading."""
    rng = random.Random(0)
    source = saved({"epoch": 1, "model": module().state_dict(), "p": torch.nn.Parameter(torch.ones(2))}).read_bytes()
    allowed = set(torch_unpickler._get_allowed_globals())
    clean = 0
    for _ in range(150):
        damaged = bytearray()

        def change(name: str, content: bytes, damaged: bytearray = damaged) -> bytes:
            if name != "data.pkl":
                return content
            damaged += content
            for _ in range(rng.choice([0, 1, 1, 2])):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            return bytes(damaged)

        if judged(rewritten(source, change)).verdict == "clean":
            clean += 1
            assert torch_unpickler.get_globals_in_pkl(io.BytesIO(bytes(damaged))) <= allowed
    assert clean > 20


# files from before torch 1.6


def test_legacy_files_need_trust_and_must_be_whole() -> None:
    path = saved(module().state_dict(), _use_new_zipfile_serialization=False)
    report = judged(path)
    assert (report.format, report.verdict) == ("torch_legacy", "needs_trust")
    for broken in (path.read_bytes()[:-1], path.read_bytes() + b"\0", path.read_bytes()[:200]):
        cut = Path("cut.pt")
        cut.write_bytes(broken)
        assert judged(cut).verdict == "refused"


def test_a_payload_in_a_legacy_file_is_named() -> None:
    path = saved({"hook": Payload(), "weight": torch.ones(2)}, _use_new_zipfile_serialization=False)
    report = judged(path)
    assert "touch marker" in report.findings[0].what
    torch.load(path, weights_only=False)
    assert Path("marker").exists()


def test_the_tar_of_the_oldest_torch_needs_trust() -> None:
    import tarfile

    with tarfile.open("old.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Payload() if name == "pickle" else 0)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    report = judged(Path("old.pth"))
    assert (report.format, report.verdict) == ("torch_legacy", "needs_trust")
    assert "which runs code (byte" in report.summary


# exported programs and TorchScript


@pytest.fixture(scope="module")
def program() -> bytes:
    exported = torch.export.export(
        module().eval(), (torch.zeros(2, 1, 4, 4),), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)
    )
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    return buffer.getvalue()


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def sample_inputs(name: str, content: bytes) -> bytes:
    return torch_bytes(Payload()) if name == "data/sample_inputs/model.pt" else content


def use_pickle(name: str, content: bytes) -> bytes:
    if name == "data/weights/model_weights_config.json":
        document = json.loads(content)
        document["config"]["0.weight"]["use_pickle"] = True
        return json.dumps(document).encode()
    return torch_bytes(Payload()) if name == "data/weights/weight_0" else content


def expression(name: str, content: bytes) -> bytes:
    if name != "models/model.json":
        return content

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: EXPRESSION if key == "expr_str" else replace(inner) for key, inner in value.items()}
        return [replace(inner) for inner in value] if isinstance(value, list) else value

    changed = json.dumps(replace(json.loads(content)))
    assert EXPRESSION in changed
    return changed.encode()


def test_an_exported_program_always_needs_trust(program: bytes) -> None:
    Path("good.pt2").write_bytes(program)
    report = judged(Path("good.pt2"))
    assert (report.format, report.verdict) == ("torch_export", "needs_trust")
    assert not any("which runs code" in issue.what or "evaluates" in issue.what for issue in report.findings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (sample_inputs, "system('touch marker'), which runs code"),
        (use_pickle, "use_pickle"),
        (expression, "evaluates as Python"),
    ],
)
def test_each_way_into_an_exported_program_is_named(
    program: bytes, change: Callable[[str, bytes], bytes], said: str
) -> None:
    path = rewritten(program, change)
    report = judged(path)
    assert (report.format, report.verdict) == ("torch_export", "needs_trust")
    assert any(said in issue.what for issue in report.findings[:2]), report.findings
    with suppress(Exception):  # the control: torch.export.load runs it, whatever it says afterwards
        torch.export.load(io.BytesIO(path.read_bytes()))
    assert Path("marker").exists()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("s0", True),
        ("2*s0 + 1", True),
        ("Eq(s0, 4)", True),
        ("FloorDiv(s77, 2) <= Max(1, s0)", True),
        ("Symbol('s31', positive=True, integer=True)", True),
        (EXPRESSION, False),
        ("Symbol('s0, __import__', integer=True)", False),
        ("Symbol('s0', integer=exit())", False),
        ("Symbol(Symbol('s0').__class__)", False),
        ("sympify('s0')", False),
        ("s0.__class__", False),
        ("[s0 for s0 in s1]", False),
        ("(lambda: 0)()", False),
        ("eval(s0)", False),
        ("'s0'", False),
        ("(" * 1000, False),
        ("s0" + "+1" * 10_000, False),
        (7, False),
    ],
)
def test_plain_expressions(text: Any, plain: bool) -> None:
    assert is_plain_expression(text) is plain


def test_older_exported_programs_are_told_as_such() -> None:
    with zipfile.ZipFile("old.pt2", "w") as archive:
        archive.writestr("version", "5.1")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", torch_bytes({}))
        archive.writestr("serialized_constants.pt", torch_bytes(Payload()))
    report = judged(Path("old.pt2"))
    assert (report.format, report.verdict) == ("torch_export", "needs_trust")
    assert "which runs code" in report.findings[0].what


def test_native_code_in_an_exported_program_is_named(program: bytes) -> None:
    Path("p.pt2").write_bytes(program)
    with zipfile.ZipFile("p.pt2", "a") as archive:
        archive.writestr("archive/data/aotinductor/model/model.so", b"\x7fELF")
    assert judged(Path("p.pt2")).findings[0].what == "native code"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_torchscript_always_needs_trust() -> None:
    torch.jit.save(torch.jit.trace(module().eval(), torch.zeros(1, 1, 4, 4)), "script.pt")
    report = judged(Path("script.pt"))
    assert (report.format, report.verdict) == ("torchscript", "needs_trust")
    assert "torch.jit.load" in report.findings[0].what
    assert "code/" in report.findings[0].where
