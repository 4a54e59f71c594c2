"""Models: the registry as it is, with the runs of each version, what they tested, and what nobody ever did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from drawn import charts, html
from safetensors.torch import save_model
from toys import digits
from trainable import Softmax

from audit.engine import run
from audit.model import Field, InputSpec
from audit.privacy.accounting import Claim, Stretch, TrainingRecord
from audit.recipe import Recipe
from audit.registry.card import ModelCard
from audit.registry.store import Registry
from audit.scenario import parse
from dashboard.reading import registered, stored

AUDIT = """\
name: reader-release
model: reader@1
data: {source: given}
seed: 3
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.99"}
  - privacy.dp_accounting: {}
    optional: true
"""
LEDGER = TrainingRecord(
    stretches=(Stretch(sampling_rate=0.1, sigma=1.0, steps=10), Stretch(sampling_rate=0.1, sigma=1.0, steps=5)),
    dataset_size=1000, sampler="poisson", noise="entropy", claim=Claim(epsilon=3.0, delta=1e-5), clipping="flat", clipping_norm=1.0,
    accountant="rdp", trials=4, batch_sizes=(*range(93, 108),),
)  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of one model in two versions, the first audited, and of a private one that nobody audited."""
    home = tmp_path_factory.mktemp("registry")
    registry = Registry(home)
    registry.trust.allow_package("trainable")
    field = Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0.0, 16.0), units="grey level")
    for at, name in enumerate(("reader", "reader", "private")):
        with torch.random.fork_rng():
            torch.manual_seed(at)
            save_model(Softmax(), str(home / "weights.safetensors"))
        registry.add(
            name, home / "weights.safetensors", loader="state_dict", parameters={"factory": "trainable:Softmax"},
            task="classification", classes=10, output="logit", spec=InputSpec(fields=(field,)), tags=("demo",) if at == 1 else (),
            aliases=("live",) if at == 0 else (), ledger=LEDGER.model_dump_json(exclude_none=True).encode() if at == 2 else None,
            recipe=Recipe(epochs=7, optimiser=("adam", {"lr": 0.05})) if at == 2 else None,
        )  # fmt: skip
    run(parse(AUDIT), home=home, data=digits(60), out=home / "runs" / "first")
    return home


@pytest.fixture
def here(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AUDIT_HOME", str(filled))
    return filled


def test_an_empty_registry_says_how_to_start(home, opened):
    app = opened("models")
    assert "no models" in app.info[0].value
    assert [code.value.split()[1] for code in app.code] == ["model", "train"]


def test_every_version_with_its_latest_verdict(here, opened):
    table = opened("models").dataframe[0].value
    rows = {row["model"]: row for row in table.to_dict("records")}
    assert list(rows) == ["private@1", "reader@2", "reader@1"]
    assert rows["reader@1"]["verdict"] == "✗ Failed"
    assert rows["reader@1"]["runs"] == 1
    assert rows["reader@1"]["aliases"] == "live"
    assert rows["reader@2"]["verdict"] == "– never audited"
    assert rows["private@1"]["privacy"] == "ledger"
    assert rows["reader@1"]["input"] == "image 1×8×8"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"q": "READER"}, ["reader@2", "reader@1"]),
        ({"q": "live"}, ["reader@1"]),
        ({"tag": "demo"}, ["reader@2"]),
        ({"versions": "newest"}, ["private@1", "reader@2"]),
    ],
)
def test_filters_hold(here, opened, query, wanted):
    assert opened("models", **query).dataframe[0].value["model"].tolist() == wanted


def test_filters_that_leave_nothing_say_so(here, opened):
    assert "No model is like that" in opened("models", q="nobody").info[0].value


@pytest.mark.parametrize("ref", ["reader@1", "reader@live"])
def test_a_version_is_shown_whole(here, opened, ref):
    app = opened("models", model=ref)
    card = Registry(here).get("reader@1")
    written = html(app)
    assert card.digest in written
    assert next(iter(card.files.values())) in written
    assert "trainable:Softmax" in written
    assert "gradients, labels, layers, logits, probabilities" in written
    fields = next(frame.value for frame in app.dataframe if "bounds" in frame.value)
    assert fields.to_dict("records")[0]["bounds"] == "0 to 16"
    assert 'class="verdict fail small"' in written
    runs = next(frame.value for frame in app.dataframe if "scenario" in frame.value)
    assert runs["run"].tolist() == ["first"]


def test_what_was_tested_and_what_never_was(here, opened):
    written = html(opened("models", model="reader@1"))
    tried, absent = written.split("Newest result of each check")[1].split("Never measured")
    assert "performance.classification" in tried
    assert "privacy.dp_accounting" in tried, "it was tried"
    assert "not applicable" in tried
    assert "dp_accounting" in absent, "and measured nothing"
    assert "robustness (0/" in absent
    assert "evasion" in absent
    assert ", classification" not in absent


def test_a_version_that_nobody_audited_says_so(here, opened):
    app = opened("models", model="reader")  # the newest
    assert "No stored run audited this version" in app.info[0].value
    assert "reader@2" in app.subheader[0].value.replace("\\", "")


def test_recipe_and_ledger(here, opened):
    app = opened("models", model="private")
    written = html(app)
    assert "<dd>adam (lr 0.05)</dd>" in written
    assert "Rényi composition (RDP)" in written
    assert "<dd>4</dd>" in written, "trials"
    stretches = next(frame.value for frame in app.dataframe if "stretch" in frame.value)
    assert stretches["last step"].tolist() == [10, 15]
    (sets,) = (one for title, one in charts(app).items() if title == "Sizes of the batches that were drawn")
    assert sum(row["count"] for found in sets for row in found if "count" in row) == 15
    assert "No stored audit held this ledger" in " ".join(caption.value for caption in app.caption)


def test_a_model_that_is_not_there_is_an_error(here, opened):
    app = opened("models", fine=False, model="nobody@3")
    assert "There is no model" in app.error[0].value


def test_a_damaged_registry_is_one_line(home, opened):
    home.path.mkdir()
    (home.path / "registry.sqlite").write_bytes(b"this is no database" * 100)
    app = opened("models", fine=False)
    assert len(app.error) == 1
    assert "registry" in app.error[0].value


def test_other_versions_stand_below_and_the_shown_one_is_marked(here, opened):
    app = opened("models", model="reader@1")
    versions = next(frame.value for frame in app.dataframe if "version" in frame.value)
    assert versions["version"].tolist() == ["2", "1 ←"]
    assert versions["verdict"].tolist() == ["– never audited", "✗ Failed"]
    assert not any("version" in frame.value for frame in opened("models", model="private").dataframe), "it has one"


def test_a_run_without_a_verdict_hides_none(here, opened, tmp_path, monkeypatch):
    home = shutil.copytree(here, tmp_path / "home")
    monkeypatch.setenv("AUDIT_HOME", str(home))
    cut = shutil.copytree(home / "runs" / "first", home / "runs" / "later")
    manifest = json.loads((cut / "manifest.json").read_text())
    changed = {**manifest, "state": "interrupted", "started": "2999-01-01T00:00:00+00:00"}
    (cut / "manifest.json").write_text(json.dumps(changed))
    card = Registry(home).get("reader@1")
    runs = registered.runs_of(card, stored.runs(home))
    assert [run.name for run in runs] == ["later", "first"]
    told = registered.telling(runs)
    assert told is not None
    assert told.name == "first"
    app = opened("models", model="reader@1")
    assert app.dataframe[0].value.set_index("model")["verdict"]["reader@1"] == "✗ Failed"
    assert "The newest run came to none" in html(app)
    assert "run=later" in html(app)


def test_a_choice_of_a_run_of_another_digest_is_not_this_version(filled):
    card = Registry(filled).get("reader@1")
    runs = stored.runs(filled)
    assert [one.name for one in registered.runs_of(card, runs)] == ["first"]
    other: ModelCard = card.model_copy(update={"digest": "0" * 64})
    assert registered.runs_of(other, runs) == []


def test_the_newest_result_of_a_check_counts_unless_it_measured_nothing(filled):
    card = Registry(filled).get("reader@1")
    tested = registered.tested(card, registered.runs_of(card, stored.runs(filled)))
    assert tested["performance.classification"].measured
    assert not tested["privacy.dp_accounting"].measured
    assert tested["performance.classification"].statuses["fail"] == 1
