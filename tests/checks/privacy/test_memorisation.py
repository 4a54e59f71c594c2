"""Language models that know a canary by heart and one that never saw it, and generators that copy and do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_models import PLANTED, PREFIX, UNSEEN, fair, leaky, sentences
from measuring import measured, value
from pydantic import ValidationError
from toys import Linear, audited, batch, data

from audit.checks.privacy.memorisation import Memorisation
from audit.data import AuditData
from audit.engine import run
from audit.finding import Bound, Exact, Measurement, Resampled
from audit.model import AuditedModel, Field, InputSpec
from audit.parameters import UserError
from audit.scenario import parse

DATA = data(batch(np.zeros((2, 2), np.float32), np.array([0, 1])), kind="series")
WINDOWS = {"prefix": (6,), "continuation": 6}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models, the training text, and text that neither read."""
    folder = tmp_path_factory.mktemp("language")
    leaky(folder)
    fair(folder)
    (folder / "training.txt").write_text("\n".join(sentences(40, 0)))
    (folder / "held-out.txt").write_text("\n".join(sentences(40, 1)))
    return folder


def canaries(folder: Path, *entries: dict[str, Any]) -> str:
    path = folder / "canaries.json"
    path.write_text(
        json.dumps([{"name": "alice", "text": PREFIX + "{}", "secret": PLANTED, **e} for e in entries or ({},)])
    )
    return str(path)


def measure(tmp_path: Path, rows: AuditData = DATA, **parameters: Any) -> dict[str, Measurement]:
    return measured(Memorisation(**parameters), bystander(rows), rows, tmp_path)


def bystander(rows: AuditData) -> AuditedModel:
    """The model that a scenario must name; nothing here asks it."""
    return audited(Linear([1.0] * rows.spec.shape[0], 0.0), rows.spec.shape, kind="series")


def status(tmp_path: Path, gate: str, rows: AuditData = DATA, **parameters: Any) -> str:
    entry = json.dumps({"privacy.memorisation": parameters, "require": dict([gate.split(": ")])})
    text = f"name: m\nmodel: toy\ndata: {{source: given}}\nchecks:\n  - {entry}\n"
    report = run(parse(text, base=tmp_path), home=tmp_path, models={"toy": bystander(rows)}, data=rows)
    (finding,) = (f for f in report.findings if f.gated)
    return str(finding.status)


# --- canaries ---


@pytest.mark.parametrize(("which", "wanted"), [("leaky", "fail"), ("fair", "pass")])
def test_a_canary_is_exposed_where_it_was_learned(here: Path, tmp_path: Path, which: str, wanted: str) -> None:
    told = {"model_dir": str(here / which), "canaries": canaries(tmp_path)}
    assert status(tmp_path, "exposure: <= 8", **told) == wanted


def test_exposure_by_enumeration_is_exact(here: Path, tmp_path: Path) -> None:
    path = canaries(tmp_path, {}, {"name": "nobody", "secret": UNSEEN})
    found = measure(tmp_path, model_dir=str(here / "leaky"), canaries=path)
    alice = found["exposure[canary=alice]"].estimate
    assert isinstance(alice, Exact)
    assert (alice.value, alice.n) == (pytest.approx(np.log2(10_000)), 10_000)
    assert found["exposure[canary=nobody]"].estimate.interval()[0] < 6
    assert found["exposure"].estimate == found["exposure[canary=alice]"].estimate
    assert "the most exposed of 2; if nothing were memorised, one would reach this with a chance of 0.0002" in "".join(
        found["exposure"].cautions
    )
    assert not [name for name in found if name.startswith("exposure_floor")]


def test_exposure_by_sampling_goes_on_where_the_sample_ends(here: Path, tmp_path: Path) -> None:
    path = canaries(tmp_path, {}, {"name": "nobody", "secret": UNSEEN})
    exact = measure(tmp_path, model_dir=str(here / "leaky"), canaries=path)
    found = measure(tmp_path, model_dir=str(here / "leaky"), canaries=path, enumerate_up_to=9999, secrets=400)
    estimate, floor = found["exposure[canary=alice]"].estimate, found["exposure_floor[canary=alice]"].estimate
    assert isinstance(estimate, Resampled)
    assert estimate.n == 400
    assert estimate.interval()[0] > 9
    assert isinstance(floor, Bound)
    assert floor.value == pytest.approx(-np.log2(1 - 0.05 ** (1 / 400)))
    assert floor.value == floor.ceiling
    low, high = found["exposure[canary=nobody]"].estimate.interval()
    assert low - 0.5 < exact["exposure[canary=nobody]"].estimate.interval()[0] < high + 0.5
    # told of two canaries, the better one is told at half the error
    assert found["exposure_floor"].estimate.value == pytest.approx(-np.log2(1 - 0.025 ** (1 / 400)))


def test_a_secret_may_be_drawn_from_choices_or_hold_fixed_characters(here: Path, tmp_path: Path) -> None:
    path = canaries(
        tmp_path,
        {"choices": [PLANTED, "1234", UNSEEN]},
        {"name": "even", "alphabet": "01234567"},
        {"name": "part", "alphabet": "012345689"},  # the 7 stands
    )
    found = measure(tmp_path, model_dir=str(here / "leaky"), canaries=path)
    assert [found[f"exposure[canary={name}]"].estimate.n for name in ("alice", "even", "part")] == [3, 8**4, 9**3]
    assert found["exposure[canary=alice]"].estimate.interval()[0] == pytest.approx(np.log2(3))


def test_a_reference_model_that_knows_the_canary_voids_it(here: Path, tmp_path: Path) -> None:
    told = {"model_dir": str(here / "leaky"), "canaries": canaries(tmp_path)}
    assert status(tmp_path, "exposure: <= 8", **told, reference_dir=str(here / "leaky")) == "void"
    assert status(tmp_path, "exposure: <= 8", **told, reference_dir=str(here / "fair")) == "fail"


def test_no_secret_is_written_anywhere(here: Path, tmp_path: Path) -> None:
    path = canaries(tmp_path)
    status(tmp_path, "exposure: <= 8", model_dir=str(here / "leaky"), canaries=path)
    written = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and str(f) != path)
    assert not any(PLANTED.encode(encoding) in written for encoding in ("utf-8", "utf-32-le"))


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ({"secret": "a"}, "no character of the secret of canary 'alice' is in its alphabet"),
        ({"choices": ["1", "2"]}, "must be one of its choices"),
        ({"text": "no place"}, "text"),
        ({"secrets": "1"}, "secrets"),
    ],
)
def test_wrong_canaries(here: Path, tmp_path: Path, entry: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        measure(tmp_path, model_dir=str(here / "fair"), canaries=canaries(tmp_path, entry))


# --- continuations ---


def test_training_text_is_given_back_by_one_that_learned_it_by_heart(here: Path, tmp_path: Path) -> None:
    told = {"training_text": str(here / "training.txt"), "held_out_text": str(here / "held-out.txt"), **WINDOWS}
    found = measure(tmp_path, model_dir=str(here / "leaky"), **told)
    k, n = value(found["extractable"])
    assert k > 0.25 * n
    assert value(found["extractable_held_out"]) == (0, n)
    assert found["extraction_gain"].estimate.interval()[0] > 0.2
    assert set(found) == {"extractable", "extractable_held_out", "extraction_gain"}
    assert status(tmp_path, "extraction_gain: <= 0.1", model_dir=str(here / "leaky"), **told) == "fail"
    assert status(tmp_path, "extraction_gain: <= 0.1", model_dir=str(here / "fair"), **told) == "pass"


def test_prefixes_share_their_windows(here: Path, tmp_path: Path) -> None:
    told = {"training_text": str(here / "training.txt"), "held_out_text": str(here / "held-out.txt"), "continuation": 6}
    found = measure(tmp_path, model_dir=str(here / "leaky"), **told, prefix=(1, 7), snippets=30)
    k, n = value(found["extractable[prefix=1]"])
    assert n == 30
    assert k < value(found["extractable[prefix=7]"])[0]
    assert value(found["extractable"]) == (k, n)


def test_short_snippets_are_counted_out(here: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed.txt").write_text("\n".join([*sentences(5, 0), "a cat", "the dog"]))
    told = {"model_dir": str(here / "fair"), "held_out_text": str(here / "held-out.txt"), **WINDOWS}
    found = measure(tmp_path, training_text=str(tmp_path / "mixed.txt"), **told)
    assert value(found["extractable"])[1] == 5
    assert found["extractable"].cautions == ("2 of 7 snippets of mixed.txt have fewer than 12 tokens",)
    (tmp_path / "short.txt").write_text("a cat")
    with pytest.raises(UserError, match="none of its 1 snippets has the 12 tokens"):
        measure(tmp_path, training_text=str(tmp_path / "short.txt"), **told)


# --- samples ---


def split(n: int = 300, shift: float = 0.0) -> AuditData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * n, 4)).astype(np.float32)
    x[n:] += np.float32(shift)
    y = np.zeros(2 * n, np.int64)
    return data(batch(x[n:], y[n:]), batch(x[:n], y[:n]), kind="series")


def made(tmp_path: Path, samples: Any, **arrays: Any) -> str:
    np.savez(tmp_path / "made.npz", samples=samples, **arrays)
    return str(tmp_path / "made.npz")


def generator(rows: AuditData, bandwidth: float, n: int = 300) -> Any:
    """Samples of a kernel density of the members: copies where the bandwidth is small."""
    rng = np.random.default_rng(1)
    assert rows.train is not None
    return rows.train.x[rng.integers(len(rows.train), size=n)] + bandwidth * rng.normal(size=(n, 4))


def test_a_generator_that_copies_its_members(tmp_path: Path) -> None:
    rows = split()
    path = made(tmp_path, generator(rows, 0.02))
    found = measure(tmp_path, rows, samples=path, fpr=0.05)
    assert found["member_excess"].estimate.interval()[0] > 0.4
    assert found["distance_ratio"].estimate.interval()[1] < 0.2
    assert found["copies"].estimate.interval()[0] > 0.5


def test_a_generator_that_learned_the_distribution(tmp_path: Path) -> None:
    rows = split()
    path = made(tmp_path, np.random.default_rng(2).normal(size=(300, 4)))
    found = measure(tmp_path, rows, samples=path, fpr=0.05)
    for metric, fair_value in (("member_excess", 0), ("distance_ratio", 1)):
        low, high = found[metric].estimate.interval()
        assert low < fair_value < high
    assert found["member_excess"].estimate.interval()[1] < 0.15
    assert found["copies"].unresolved is None


def test_members_that_were_drawn_otherwise_void_it(tmp_path: Path) -> None:
    rows = split(100, shift=2)
    path = made(tmp_path, generator(rows, 0.02, 100))
    assert status(tmp_path, "member_excess: <= 0.1", rows, samples=path) == "void"
    rows = split(100)
    path = made(tmp_path, generator(rows, 0.02, 100))
    assert status(tmp_path, "copies: <= 0.1", rows, samples=path) == "inconclusive"  # at FPR 1 %, too few rows held out
    assert status(tmp_path, "copies: <= 0.4", rows, samples=path, fpr=0.1) == "fail"


def test_embeddings_are_compared_with_those_beside_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    members, held_out = rng.normal(size=(2, 100, 8))
    path = made(tmp_path, members[:80] * 5, members=members, held_out=held_out)
    assert measure(tmp_path, samples=path, distance="cosine")["member_excess"].estimate.interval()[0] > 0.49
    assert measure(tmp_path, samples=path)["member_excess"].estimate.interval()[0] < 0.3


def test_columns_of_a_table_count_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=400), 1e6 * rng.normal(size=400), rng.integers(3, size=400)], axis=1)
    fields = (
        Field(name="a", kind="number"),
        Field(name="b", kind="number"),
        Field(name="c", kind="category", categories=("x", "y", "z")),
    )
    y = np.zeros(200, np.int64)
    rows = AuditData("toy", batch(x[200:], y), InputSpec(fields=fields), ("0",), batch(x[:200], y))
    copied = x[:200] + [0, 2e5, 0] * rng.normal(size=(200, 3))
    assert measure(tmp_path, rows, samples=made(tmp_path, copied))["member_excess"].estimate.interval()[0] > 0.1
    with pytest.raises(UserError, match="rows of one shape"):
        measure(tmp_path, rows, samples=made(tmp_path, copied[:, :2]))


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({}, "nothing to measure"),
        ({"canaries": "c.json"}, "model_dir"),
        ({"model_dir": "m", "samples": "s.npz"}, "model_dir"),
        ({"model_dir": "m", "training_text": "t.txt"}, "go together"),
        ({"samples": "s.npz", "reference_dir": "r"}, "reference_dir"),
    ],
)
def test_parameters_that_do_not_go_together(told: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        Memorisation(**told)


def test_wrong_files_are_one_line(here: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the data a 'split'"):
        measure(tmp_path, samples=made(tmp_path, np.zeros((3, 2))))
    with pytest.raises(UserError, match="expected 'samples', and 'members' with 'held_out'"):
        measure(tmp_path, samples=made(tmp_path, np.zeros((3, 2)), members=np.zeros((3, 2))))
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(UserError, match="canaries"):
        measure(tmp_path, model_dir=str(here / "fair"), canaries=str(tmp_path / "no.json"))
    with pytest.raises(UserError, match="cannot be read"):
        measure(tmp_path, model_dir=str(here / "fair"), canaries=str(tmp_path / "none.json"))
