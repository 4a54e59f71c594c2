"""Run folders and addresses that mean harm or came to harm: the file is named, nothing breaks, nothing leaks, and the other runs still open."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import html

from dashboard.parts.markdown import JOINER, LONGEST, plain

OUTCOMES = "evidence/robustness.evasion/outcomes/00000.value.npy"
INDEX = "evidence/robustness.evasion/outcomes/index.jsonl"
META = "evidence/explanation.faithfulness/attributions/meta.json"
MAPS = "evidence/explanation.faithfulness/attributions/00000.values.npy"
SECRET = "nobody-else-reads-this"


@pytest.fixture
def bad(home: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run to be damaged, beside one that stays whole; neither costs a copy of the arrays that are not touched."""
    monkeypatch.setenv("AUDIT_HOME", str(home.path))
    for name in ("good", "bad"):
        shutil.copytree(made.runs / "a-long", home.runs / name, copy_function=os.link)
    return home.runs / "bad"


def written(path: Path, content: bytes) -> None:
    """A file anew: the old one is shared with others."""
    path.unlink()
    path.write_bytes(content)


def seen(app: Any) -> str:
    """Everything that a page says, without what keeps it plain."""
    said = [str(one.value) for kind in (app.error, app.info, app.caption, app.markdown, app.title) for one in kind]
    return html(app) + " ".join(said).replace("\\", "").replace(JOINER, "")


def array(**change: Any) -> Callable[[Path], None]:
    """An array as numpy writes it, with something else in it."""

    def damage(path: Path) -> None:
        values = np.load(path)
        out = io.BytesIO()
        np.save(out, change["of"](values), allow_pickle=True)
        written(path, out.getvalue())

    return damage


def linked(path: Path) -> None:
    path.unlink()
    target = path.with_name("target-of-a-link")
    target.write_text(SECRET)
    path.symlink_to(target)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folded(path: Path) -> None:
    path.unlink()
    path.mkdir()


def torn(path: Path) -> None:
    written(path, path.read_bytes()[: path.stat().st_size // 2])


def deep(path: Path, levels: int = 400) -> None:
    written(path, b'{"format": 1, "a": ' * levels + b"1" + b"}" * levels + b"\n")


def deeper(path: Path) -> None:
    deep(path, 5000)


def listed(path: Path) -> None:
    written(path, b"[1]\n")


def latin(path: Path) -> None:
    written(path, path.read_bytes().replace(b"a", b"\xe4"))


def newer(path: Path) -> None:
    written(path, path.read_bytes().replace(b'"format": 1', b'"format": 2'))


DAMAGE: list[tuple[str, Callable[[Path], None], dict[str, str]]] = [
    *(("manifest.json", how, {}) for how in (torn, deep, deeper, listed, latin, newer, linked, piped)),
    *(("findings.jsonl", how, {}) for how in (torn, listed, linked, folded)),
    *(("measurements.jsonl", how, {}) for how in (deep, listed, linked)),
    *(("timings.json", how, {}) for how in (torn, listed)),
    *(("scenario.yaml", how, {"part": "manifest"}) for how in (latin, linked)),
    *((META, how, {"page": "saliency"}) for how in (torn, listed, linked)),
    *((MAPS, how, {"page": "saliency"}) for how in (torn, linked, folded)),
    *((INDEX, how, {"part": "evidence", "step": "robustness.evasion"}) for how in (listed, linked)),
    *(
        (OUTCOMES, array(of=of), {"part": "evidence", "step": "robustness.evasion"})
        for of in (
            lambda values: np.array([{"a": 1}] * len(values), dtype=object),
            lambda values: values[:1],
            lambda values: values.astype(complex),
        )
    ),
]


@pytest.mark.parametrize(("name", "damage", "query"), DAMAGE, ids=lambda value: getattr(value, "__name__", None))
def test_the_file_is_named_and_the_others_still_open(
    bad: Path, opened: Any, name: str, damage: Callable[[Path], None], query: dict[str, str]
) -> None:
    damage(bad / name)
    app = opened(query.get("page", "run"), fine=False, run="bad", **{k: v for k, v in query.items() if k != "page"})
    errors = " ".join(str(error.value) for error in app.error).replace("\\", "")
    assert name.rsplit("/", 1)[-1] in errors
    assert str(bad.parents[1]) not in errors
    assert "Traceback" not in errors
    assert SECRET not in seen(app)
    if name in ("manifest.json", "findings.jsonl"):
        rows = {
            row["run"]: row["verdict"] for row in opened("overview", fine=False).dataframe[0].value.to_dict("records")
        }
        assert "Damaged" in rows["bad"]
        assert "Damaged" not in rows["good"]


def test_a_download_takes_nothing_along_that_lies_elsewhere(
    bad: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamlit as st

    linked(bad / "scenario.yaml")
    (bad / "evidence" / "elsewhere").symlink_to(bad.parent / "good" / "evidence")
    (bad / "target-of-a-link").rename(bad.parents[1] / "secret")
    (bad / "scenario.yaml").unlink()
    (bad / "scenario.yaml").symlink_to(bad.parents[1] / "secret")
    offered: dict[str, Any] = {}
    drawn = st.download_button
    monkeypatch.setattr(st, "download_button", lambda *a, **k: (offered.update({k["key"]: a[1]}), drawn(*a, **k))[1])
    opened("run", fine=False, run="bad")
    with zipfile.ZipFile(io.BytesIO(offered["download-evidence"]())) as archive:
        names = archive.namelist()
    assert "findings.jsonl" in names
    assert "scenario.yaml" not in names
    assert not [name for name in names if "elsewhere" in name]
    assert SECRET not in offered["download-html"]()


# --- values ------------------------------------------------------------------------------------------------------

ODD = [
    None, True, -1, 1e308, float("nan"), float("inf"), 10**40, "", "<b>", "\x00\x1b", "9" * 50, [], {}, [[]], {"a": None}, {"x": {"y": [1]}},
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    if at:
        yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*at, key))


def mutated(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """With one place holding something odd."""
    value = copy.deepcopy(value)
    *path, last = rng.choice(list(places(value)))
    holder: Any = value
    for key in path:
        holder = holder[key]
    holder[last] = rng.choice(ODD)
    return value


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "name", ["manifest.json", "findings.jsonl", "measurements.jsonl", META, INDEX.replace("outcomes/", "clean/")]
)
def test_odd_values_break_no_page(bad: Path, opened: Any, name: str, seed: int) -> None:
    rng = random.Random(f"{name}{seed}")
    path = bad / name
    lines = path.read_text().splitlines() if name.endswith("jsonl") else [path.read_text()]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutated(json.loads(lines[at]), rng))
    written(path, "".join(f"{line}\n" for line in lines).encode())
    if name == "findings.jsonl":
        manifest = json.loads((bad / "manifest.json").read_text()) | {"findings_bytes": path.stat().st_size}
        written(bad / "manifest.json", json.dumps(manifest).encode())
    page, query = rng.choice([
        ("run", {}), ("run", {"part": "measured"}), ("run", {"part": "manifest"}), ("run", {"part": "evidence"}), ("run", {"part": "not_tested"}),
        ("run", {"finding": "performance.classification/accuracy"}), ("saliency", {}), ("attacks", {}), ("attacks", {"part": "examples"}), ("privacy", {}),
    ])  # fmt: skip
    for app in (opened("overview", fine=False), opened(page, fine=False, run="bad", **query)):
        said = seen(app)
        assert "Traceback" not in said
        assert not re.search(r"(Key|Type|Index|Attribute|Overflow|Recursion)Error", said)


# --- addresses and texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", ["run", "saliency", "attacks", "privacy", "compare", "models", "new_audit", "overview"]
)
@pytest.mark.parametrize("value", ["..", "x" * 5000, "٣", "[a](http://evil.example)"])
def test_an_address_that_names_nothing_opens_nothing(audited_home: Any, opened: Any, page: str, value: str) -> None:
    names = {
        "models": ["model", "q"],
        "compare": ["before", "after"],
        "new_audit": ["audit"],
        "overview": ["q", "lang", "verdict"],
    }
    queries = [dict.fromkeys(names.get(page, ["run"]), value)]
    if page in ("run", "saliency", "attacks", "privacy"):
        queries.append(
            {"run": "a-long"} | dict.fromkeys(("finding", "part", "model", "evidence", "row", "sample", "step"), value)
        )
    for query in queries:
        app = opened(page, fine=False, **query)
        errors = " ".join(str(error.value) for error in app.error)
        assert str(audited_home.path) not in errors.replace("\\", "")
        assert "[a](http" not in errors


@pytest.mark.parametrize(
    ("text", "written_as"),
    [
        ("see http://evil.example", rf"see http\:{JOINER}//evil\.example"),
        ("HTTPS://x", rf"HTTPS\:{JOINER}//x"),
        ("www.evil.example", rf"www{JOINER}\.evil\.example"),
        ("me@evil.example", rf"me@{JOINER}evil\.example"),
        (":material/star:", rf"\:{JOINER}material/star\:"),
        ("digits-cnn@1", r"digits\-cnn@1"),
        ("$x$ [a](b)", r"\$x\$ \[a\]\(b\)"),
    ],
)
def test_a_text_stays_what_it_is(text: str, written_as: str) -> None:
    assert plain(text) == written_as
    assert plain(text).replace("\\", "").replace(JOINER, "") == text


def test_an_endless_text_ends() -> None:
    assert plain("x" * (LONGEST + 1)) == "x" * LONGEST + " …"
