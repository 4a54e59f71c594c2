"""Personal data planted in outputs, in what is stored, and in rows; and numbers that only look like it."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from language_models import tokenizer
from measuring import measured
from pydantic import ValidationError
from toys import Linear, audited, batch, data, digits, trained_cnn

from audit.checks.privacy.pii import KindName, Pii
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Field, InputSpec
from audit.parameters import UserError
from audit.privacy.pii_patterns import KINDS
from audit.scenario import parse
from audit.text import encode

DATA = data(batch(np.zeros((2, 2), np.float32), np.array([0, 1])), kind="series")
CARD, IBAN, MAIL = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "jane.doe@mail.example.com"


def model() -> AuditedModel:
    return audited(Linear([1.0, 1.0], 0.0), (2,), kind="series")


def measure(
    tmp_path: Path, on: AuditData = DATA, audited_model: AuditedModel | None = None, **parameters: Any
) -> dict[str, Measurement]:
    return measured(Pii(**parameters), audited_model or model(), on, tmp_path)


def counts(found: dict[str, Measurement], metric: str = "found") -> dict[str, int]:
    """Kinds that were found, and all of them as ``""``."""
    named = {m.dims.get("kind", ""): int(m.estimate.interval()[0]) for m in found.values() if m.metric == metric}
    return {kind: number for kind, number in named.items() if number}


def status(tmp_path: Path, on: AuditData = DATA, audited_model: AuditedModel | None = None, **parameters: Any) -> str:
    entry = json.dumps({"privacy.pii": parameters, "require": {"found": "== 0"}})
    text = f"name: pii\nmodel: toy\ndata: {{source: given}}\nchecks:\n  - {entry}\n"
    report = run(parse(text, base=tmp_path), home=tmp_path, models={"toy": audited_model or model()}, data=on)
    (finding,) = (f for f in report.findings if f.gated)
    return str(finding.status)


def written(tmp_path: Path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_every_kind_can_be_asked_for() -> None:
    assert set(get_args(KindName)) == {kind.name for kind in KINDS}


def test_outputs_with_personal_data_fail_and_outputs_without_pass(tmp_path: Path) -> None:
    assert status(tmp_path, files=[written(tmp_path, "leak.txt", f"well\nwrite to {MAIL} or pay {IBAN}")]) == "fail"
    assert (
        status(tmp_path, files=[written(tmp_path, "fair.txt", "the answer is 42, of 2020-01-02 at 0.4111111111111111")])
        == "pass"
    )


def test_counts_are_of_different_values(tmp_path: Path) -> None:
    files = [written(tmp_path, "out.txt", f"{MAIL}\n{MAIL.upper()}\n{CARD}\n{CARD.replace(' ', '')} or {IBAN}")]
    found = measure(tmp_path, files=files)
    assert counts(found) == {"": 3, "email": 1, "card": 1, "iban": 1}
    assert found["found[kind=us_ssn]"].estimate.interval() == (0, 0)
    assert counts(measure(tmp_path, files=files, kinds=["card"])) == {"": 1, "card": 1}
    assert counts(measure(tmp_path, files=files, ignore=["4111-1111-1111-1111", "@mail.example.com"])) == {
        "": 1,
        "iban": 1,
    }


def test_nothing_is_written_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    status(tmp_path, files=[written(source, "out.txt", f"{MAIL} {CARD} {IBAN}")])
    stored = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.parent != source)
    for said, value in ((True, "j***.***@****"), *((False, v) for v in (MAIL, CARD, IBAN, "jane", "0532"))):
        assert said is any(
            value.encode(encoding) in stored for encoding in ("utf-8", "utf-32-le")
        )  # arrays hold the latter


def test_digits_at_random_decide_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    numbers = ["".join(rng.choice("0123456789") for _ in range(16)) for _ in range(600)]
    noise = written(tmp_path, "noise.txt", "\n".join(numbers))
    found = measure(tmp_path, files=[noise], kinds=["card"])
    assert counts(found)["card"] > 0
    assert "as random digits would" in (found["found"].unresolved or "")
    low, high = found["chance[kind=card]"].estimate.interval()
    assert 0.005 < low < high < 0.05
    assert status(tmp_path, files=[noise]) == "inconclusive"
    # the same numbers with twenty cards among them are no chance
    cards = [f"4{i:014d}" for i in range(20)]
    whole = [c + str(next(d for d in range(10) if _luhn(c + str(d)))) for c in cards]
    mixed = written(tmp_path, "mixed.txt", "\n".join([*numbers, *whole]))
    assert status(tmp_path, files=[mixed]) == "fail"
    # an address among the numbers is no number
    mixed = written(tmp_path, "mail.txt", "\n".join([*numbers, MAIL]))
    assert status(tmp_path, files=[mixed]) == "fail"


def _luhn(value: str) -> bool:
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(value))]
    return sum(d - 9 * (d > 9) for d in doubled) % 10 == 0


def test_what_the_training_text_holds_was_given_back(tmp_path: Path) -> None:
    files = [written(tmp_path, "out.txt", f"{MAIL} and {CARD}")]
    training = [written(tmp_path, "train.jsonl", json.dumps({"text": f"mail {MAIL.upper()}"}) + "\n")]
    found = measure(tmp_path, files=files, training=training)
    assert counts(found, "from_training") == {"": 1, "email": 1}
    assert "from_training" not in measure(tmp_path, files=files)


def test_any_file_is_read(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("notes.txt", f"ask {MAIL}")
        file.writestr("blob.bin", b"\x00\xff\x01" + CARD.encode() + b"\x00\xfe")
    header = json.dumps({"__metadata__": {"author": MAIL}}).encode()
    for name, content in {
        "o.json": json.dumps({"a": [{"b": MAIL}], CARD: 1}),
        "o.jsonl": json.dumps({"text": MAIL.replace("@", "@")}) + "\n" + json.dumps([CARD]),
        "o.csv": f"name,card\nx,{CARD}\n{MAIL},",
        "o.skops": archive.getvalue(),
        "o.pkl": pickle.dumps({"owner": MAIL, "card": CARD, "weights": bytes(range(256))}),
    }.items():
        assert counts(measure(tmp_path, files=[written(tmp_path, name, content)])) == {"": 2, "email": 1, "card": 1}, (
            name
        )
    weights = len(header).to_bytes(8, "little") + header + random.Random(0).randbytes(1 << 16)
    assert counts(measure(tmp_path, files=[written(tmp_path, "o.safetensors", weights)])) == {"": 1, "email": 1}
    assert counts(measure(tmp_path, files=[str(tmp_path / "o.*")]))[""] == 2


def test_a_trained_model_carries_nobodys_data_until_somebody_names_it(tmp_path: Path) -> None:
    net = audited(trained_cnn(1), (1, 8, 8), 10, bounds=(0.0, 16.0))
    assert status(tmp_path, digits(), net) == "pass"
    classes = (*(str(i) for i in range(9)), MAIL)
    named = net.variant(AuditedModel, classes=classes)
    assert counts(measure(tmp_path, digits(), named)) == {"": 1, "email": 1}
    assert counts(measure(tmp_path, digits(), named, files=[written(tmp_path, "a.txt", "a")], model=False)) == {}


def test_vocabulary_ledger_and_configuration_are_looked_into(tmp_path: Path) -> None:
    known = model()
    known.ledger = json.dumps({"author": MAIL})
    assert counts(measure(tmp_path, audited_model=known)) == {"": 1, "email": 1}
    reader = tokenizer()
    reader.add_tokens([f"Ġ{IBAN.replace(' ', '')}", f"▁{MAIL}"])
    known = model()
    known.text = type("Inside", (), {"tokenizer": reader})()
    assert counts(measure(tmp_path, audited_model=known)) == {"": 2, "email": 1, "iban": 1}


def test_files_of_a_registered_model_are_looked_into_under_their_own_names(tmp_path: Path) -> None:
    blob = tmp_path / "0a1b"  # the registry stores content by digest
    header = json.dumps({"__metadata__": {"made_by": MAIL}}).encode()
    blob.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(256)))
    known = model()
    known.files = {"model.safetensors": blob}
    assert counts(measure(tmp_path, audited_model=known)) == {"": 1, "email": 1}
    assert counts(measure(tmp_path, audited_model=known, model=False)) == {}


def test_addresses_that_skops_writes_are_nobodys(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "forest.skops", "w") as archive:
        lines = [f'"__id__": {number},\n"file": "{number}.npy"' for number in range(140526474427000, 140526474428000)]
        archive.writestr("schema.json", "\n".join([*lines, f'"author": "{MAIL}"']))
    assert counts(measure(tmp_path, files=[str(tmp_path / "forest.skops")])) == {"": 1, "email": 1}


def test_rows_are_looked_into(tmp_path: Path) -> None:
    texts = encode([f"call {MAIL}", "nothing here"], 64)
    rows = data(batch(texts, np.array([0, 1])), batch(encode([CARD], 64), np.array([0])), kind="text")
    known = audited(Linear([0.0] * 64, 0.0), (64,), kind="text", gradients=False)
    assert counts(measure(tmp_path, rows, known, rows=["test"])) == {"": 1, "email": 1}
    assert counts(measure(tmp_path, rows, known, rows=["test", "train"])) == {"": 2, "email": 1, "card": 1}
    fields = (
        Field(name="number", kind="number"),
        Field(name="mail", kind="category", categories=(MAIL, "none", "x@y.de")),
    )
    x = np.array([[4111111111111111.0, 0], [2.5, 1], [np.nan, 1]])
    table = AuditData("toy", batch(x, np.array([0, 1, 0])), InputSpec(fields=fields), ("0", "1"))
    assert counts(measure(tmp_path, table, model(), rows=["test"])) == {
        "": 2,
        "email": 1,
        "card": 1,
    }  # of categories that occur
    with pytest.raises(UserError, match="no members"):
        measure(tmp_path, table, model(), rows=["train"])


def test_patterns_of_ones_own(tmp_path: Path) -> None:
    files = [written(tmp_path, "out.txt", "customer KD-7 and KD-8")]
    assert counts(measure(tmp_path, files=files, patterns={"customer": r"KD-\d+"})) == {"": 2, "customer": 2}
    with pytest.raises(ValidationError, match="no regular expression"):
        Pii(patterns={"customer": "("})


def test_wrong_files_are_one_line_and_no_text_decides_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fits no file"):
        measure(tmp_path, files=[str(tmp_path / "none*.txt")])
    with pytest.raises(UserError, match="JSON, which it is not"):
        measure(tmp_path, files=[written(tmp_path, "bad.json", "{")])
    assert status(tmp_path, files=[written(tmp_path, "empty.txt", "")], model=False) == "inconclusive"
