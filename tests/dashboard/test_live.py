"""The page that explores a model live: rows, uploads, texts and edited tables, maps and attacks, and what it says where the model
hangs, crashes or hoards. The worker is a real one, shared by these tests."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

import numpy as np
import pytest
import registered
from drawn import charts, html
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest
from toys import trained_cnn

from audit.engine import run
from audit.registry.store import Registry
from audit.run_folder import Evidence
from audit.scenario import parse
from dashboard.parts import feeding
from dashboard.views import live
from dashboard.working import desk
from dashboard.working.desk import Answered, Desk
from dashboard.working.worker import WorkerFailed

APP = Path(desk.__file__).parents[1] / "app.py"
BROKEN = """\
name: broken
model: digits@1
data: {source: sklearn.digits, split: {test: 0.3, seed: 0}}
seed: 1
checks:
  - robustness.evasion: {attacks: [{pgd: {steps: 5}}], norm: linf, eps: 6, samples: 6}
    require: {robust_accuracy: ">= 0"}
"""
STORED = "evidence/robustness.evasion/adversarial-pgd"
SCENARIO = "name: {model}\nmodel: {model}\ndata: {{source: sklearn.{data}, split: {{test: 0.3, seed: 0}}}}\nchecks: [preflight.model_contract]\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("live")
    home = registered.make(folder)
    (home / "scenarios").mkdir()
    for model in ("digits", "iris"):
        (home / "scenarios" / f"{model}.yaml").write_text(SCENARIO.format(model=model, data=model))
    yield home
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def attacked(models: Path) -> Evidence:
    """Adversarial examples of the digit reader that a run stored; and a second version that answers one class further."""
    run(parse(BROKEN), home=models, out=models / "runs" / "broken")
    state = {name: value.clone() for name, value in trained_cnn().state_dict().items()}
    for name in list(state)[-2:]:
        state[name] = state[name].roll(1, 0)
    save_file(state, models / "rolled.safetensors")
    card = Registry(models).get("digits@1")
    Registry(models).add(
        "digits", models / "rolled.safetensors", parameters={"factory": f"{registered.MODULE}:Moody"}, spec=card.spec,
        classes=card.classes, output="logit", task="classification",
    )  # fmt: skip
    return Evidence(models / "runs" / "broken" / STORED)


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[Desk]:
    """One worker for all sessions."""
    found = Desk()
    yield found
    found.worker.close()


@pytest.fixture
def page(models: Path, shared: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Opens the page with the shared worker."""
    monkeypatch.setenv("AUDIT_HOME", str(models))
    monkeypatch.chdir(tmp_path)

    def look(**query: str | list[str]) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=120)
        app.session_state[desk.DESK] = shared
        for name, value in {"page": "live", **query}.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception[0].message
        return app

    return look


def figures(app: AppTest) -> dict[str, str]:
    """Pictures by their captions."""
    return dict(re.findall(r'<figcaption>(.*?)</figcaption><img src="(.*?)"', html(app)))


def said(app: AppTest) -> str:
    """What the model said, and what became of the attack."""
    return " ".join(re.findall(r'<p class="chosen[^>]*>(.*?)</p>', html(app)))


def plain(text: str) -> str:
    return text.replace("\\", "")


def test_a_row_is_predicted_and_explained_side_by_side(page) -> None:
    app = page(model="digits@1", row="3", explainers=["saliency", "input_x_gradient"])
    assert not app.error
    assert re.match(r"true \d, predicted \d \(", said(app))
    assert said(app).endswith(("✓ right", "✗ wrong"))
    assert set(figures(app)) == {"input", "saliency", "input_x_gradient"}
    (chart,) = app.get("vega_lite_chart")
    assert "Probability of each class" in chart.proto.spec
    assert app.number_input(key="live-row").value == 3


def test_another_row_and_another_class_are_a_choice_away(page) -> None:
    app = page(model="digits@1", row="3", explainers=["saliency"])
    before = figures(app)
    app.number_input(key="live-row").set_value(4).run()
    assert app.query_params["row"] == "4" or app.query_params["row"] == ["4"]
    assert figures(app)["input"] != before["input"]
    before = figures(app)
    app.selectbox(key="choice-target").set_value("7").run()
    assert figures(app)["saliency"] != before["saliency"]


def test_eps_is_in_the_units_of_the_user_and_decides(page, shared: Desk) -> None:
    query = {"model": "digits@1", "row": "3", "attack": "pgd", "explainers": ["saliency"]}
    app = page(**query)
    slider = app.slider(key="place-eps_linf")
    assert slider.label == "eps: largest change (ink)"
    assert (slider.min, slider.max) == (0.04, 8.0)
    assert slider.value == pytest.approx(0.48)
    slider.set_value(8.0).run()
    assert "broken: " in said(app)
    assert {caption.split(":")[0] for caption in figures(app)} >= {"original", "attacked"}
    app.slider(key="place-eps_linf").set_value(0.04).run()
    assert re.search(r"withstood: pgd found no other answer than \d within eps 0.04 ink", said(app))
    tried = "Of 3 values of eps that were tried, the largest that it withstood is 0.48 ink, the smallest that broke it 8 ink."
    assert tried in [plain(one.value) for one in app.caption]
    asked = len(shared._replies)
    page(**query, eps_linf="8")  # the link opens it again, and nothing is asked twice
    assert len(shared._replies) == asked


def test_what_broke_it_shows_the_maps_of_both_classes_on_one_scale(page) -> None:
    app = page(model="digits@1", row="3", attack="pgd", eps_linf="8", explainers=["saliency"])
    before, after = re.search(r"broken: (\d) → (\d)", said(app)).groups()  # type: ignore[union-attr]
    drawn = figures(app)
    assert list(drawn)[-4:] == [
        f"original, for {before}", f"attacked, for {before}", f"difference of the two for {before}", f"attacked, for {after}",
    ]  # fmt: skip
    assert len(set(list(drawn.values())[-4:])) == 4
    assert drawn[f"original, for {before}"] == drawn["saliency"]  # its scale is the largest of the row here


def test_an_attack_of_minimal_norm_answers_for_every_eps_at_once(page, shared: Desk) -> None:
    query = {"model": "digits@1", "row": "3", "attack": "fmn", "explainers": ["saliency"]}
    app = page(**query, eps_linf="0.04")
    assert "withstood: fmn found no other answer" in said(app)
    (near,) = [one.value for one in app.caption if "nearest other answer that fmn found" in plain(one.value)]
    size = float(re.search(r"is ([\d.]+) ink away", plain(near))[1])  # type: ignore[index]
    asked = shared._count
    app.slider(key="place-eps_linf").set_value(8.0).run()
    assert "broken: " in said(app)
    assert any(
        f"The smallest eps that breaks this input with fmn is {size:g} ink" in plain(c.value) for c in app.caption
    )
    assert shared._count == asked + 2  # the maps of what it found, and no second attack


# --- stored samples ----------------------------------------------------------------------------------------------


def test_a_stored_sample_is_opened_by_its_address(page, attacked: Evidence) -> None:
    sample, row = attacked.ids[0], attacked.row(0)
    query = {"model": "digits@1", "run": "broken", "evidence": STORED, "sample": sample, "explainers": ["saliency"]}
    app = page(**query, side="adversarial", target=str(int(row["prediction"])))
    assert f"true {row['label']}, predicted {row['adversarial_prediction']} (" in said(app)
    assert any("It is the same answer" in plain(one.value) for one in app.caption)
    adversarial = figures(app)["input"]
    app.segmented_control(key="choice-side").set_value("original").run()
    assert f"predicted {row['prediction']} (" in said(app)
    assert figures(app)["input"] != adversarial


def test_another_version_says_what_differs(page, attacked: Evidence) -> None:
    app = page(model="digits@2", run="broken", evidence=STORED, sample=attacked.ids[0], explainers=["saliency"])
    assert "the run audited digits@1, which is another model than digits@2" in plain(app.warning[0].value)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"sample": "nobody"}, "run 'broken' stores no sample 'nobody'"),
        ({"evidence": "evidence/../../.."}, "run 'broken' stores no samples under"),
        ({"run": "../broken"}, "there is no run '../broken'"),
        ({"model": "iris@1"}, "the stored sample has shape (1, 8, 8), model 'iris@1' takes (4,)"),
        ({"model": "gone@7"}, "There is no model 'gone@7'"),
    ],
)
def test_what_is_not_there_is_one_line(page, attacked: Evidence, query: dict[str, str], told: str) -> None:
    app = page(**{"model": "digits@1", "run": "broken", "evidence": STORED, "sample": attacked.ids[0], **query})
    (line,) = [plain(one.value) for one in app.error]
    assert told in line


def test_a_model_without_a_version_is_its_newest(page, attacked: Evidence) -> None:
    app = page(model="digits", row="3", explainers=["saliency"])
    assert app.selectbox(key="choice-model").value == "digits@2"


def test_an_example_of_the_attacks_leads_here(attacked: Evidence, models: Path, opened, monkeypatch) -> None:
    monkeypatch.setenv("AUDIT_HOME", str(models))
    app = opened("attacks", run="broken", evidence=STORED, sample=attacked.ids[1])
    (link,) = [one for one in app.get("page_link") if one.proto.label == "Explain and attack it live"]
    query = parse_qs(link.proto.query_string)
    assert {name: query[name] for name in ("model", "run", "evidence", "sample", "side")} == {
        "model": ["digits@1"], "run": ["broken"], "evidence": [STORED], "sample": [attacked.ids[1]], "side": ["adversarial"],
    }  # fmt: skip


# --- other inputs ------------------------------------------------------------------------------------------------


def test_a_text_is_typed_and_attacked(page) -> None:
    app = page(model="mood@1")
    assert [box.label for box in app.text_area] == ["Text"]
    assert not app.error
    app.text_area[0].set_value("wonderful boring").run()
    before = re.match(r"predicted (\w+)", said(app))[1]  # type: ignore[index]
    assert 'class="shaded"' in html(app)
    app.selectbox(key="choice-attack").set_value("character_edits").run()
    assert app.slider(key="place-most").label == "Words that may change"
    assert f"broken: {before} → " in said(app)
    assert f"<b>original, for {before}</b>" in html(app)
    again = page(model="mood@1", text="awful boring plot")
    assert said(again).startswith("predicted negative")


def test_an_edited_row_is_what_is_fed(page, shared: Desk, models: Path) -> None:
    """AppTest cannot edit a cell: the form's first values are the row's own, and a changed row is another file."""
    app = page(model="iris@1", by="edit", row="2", explainers=["exact_shap"])
    edited = said(app)
    assert edited.split(",")[0] in said(page(model="iris@1", row="2", explainers=["exact_shap"]))
    assert app.number_input(key="live-row").value == 2
    card = Registry(models).get("iris")
    import pandas as pd

    row = pd.DataFrame([{field.name: 5.0 for field in card.spec.fields}])
    row.iloc[0, 1] = np.nan
    edited = feeding.written(card, row)
    assert edited.decode().splitlines()[1] == "5.0,,5.0,5.0"
    assert shared.keep_file("row.csv", edited) == shared.keep_file("row.csv", edited)
    assert shared.keep_file("row.csv", b"a") != shared.keep_file("row.csv", b"b")


def test_a_table_before_and_after_an_attack_is_on_one_axis(page) -> None:
    app = page(model="iris@1", row="2", attack="tabular", most="4", explainers=["exact_shap"])
    before, after = re.search(r"broken: (\w+) → (\w+)", said(app)).groups()  # type: ignore[union-attr]
    found = charts(app)
    assert {f"original, for {before}", f"attacked, for {before}", f"attacked, for {after}"} <= set(found)
    domains = {
        title: re.search(r'"domain": (\[-?[\d.e-]+, -?[\d.e-]+\])', element.proto.spec)
        for element in app.get("vega_lite_chart")
        if (title := json.loads(element.proto.spec)["title"]) in (f"original, for {before}", f"attacked, for {before}")
    }
    assert len({match[1] for match in domains.values() if match}) == 1


def test_an_empty_text_or_file_is_told(page, monkeypatch: pytest.MonkeyPatch) -> None:
    app = page(model="mood@1")
    assert app.text_area[0].set_value("   ").run().info[0].value.startswith("Type a text")
    empty = SimpleNamespace(name="a.npy", size=0)
    monkeypatch.setattr(feeding.st, "file_uploader", lambda *args, **more: empty)
    app = page(model="digits@1", by="upload")
    assert plain(app.error[0].value) == "a.npy is empty: it holds 0 bytes."


def test_an_uploaded_file_is_named_without_this_machines_folders(page, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = SimpleNamespace(name="my torn.png", size=4, getvalue=lambda: b"torn")
    monkeypatch.setattr(feeding.st, "file_uploader", lambda *args, **more: torn)
    app = page(model="digits@1", by="upload")
    assert plain(app.error[0].value).startswith("image my_torn.png cannot be read")


def test_what_fits_a_model_is_told_by_its_card(models: Path) -> None:
    cards = {card.name: card for card in Registry(models).list()}
    assert live.fitting(cards["digits"])[0] == "integrated_gradients"
    assert "saliency" not in live.fitting(cards["iris"])
    assert "saliency" not in live.fitting(cards["mood"])
    assert {"pgd", "square", "apgd_ce"} <= set(live.attacks_on(cards["digits"]))
    assert set(live.attacks_on(cards["iris"])) == {"tabular"}
    assert set(live.attacks_on(cards["mood"])) == {"character_edits", "word_edits"}


def test_regression_has_no_classes_and_no_attack(page) -> None:
    app = page(model="width@1", explainers=["exact_shap"])
    assert said(app).startswith("predicted ")
    assert not [box for box in app.selectbox if box.label in ("Class explained", "Attack")]


# --- models that misbehave ---------------------------------------------------------------------------------------


def upload(app: AppTest, shared: Desk, ink: float, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """A picture of one ink, as an uploaded file: AppTest has no uploader to drive."""
    out = io.BytesIO()
    np.save(out, np.full((1, 8, 8), ink, dtype=np.float32))
    path = shared.keep_file(f"ink-{ink:g}.npy", out.getvalue())
    monkeypatch.setattr(feeding, "_uploaded", lambda card, data: {"file": str(path)})
    return app.run()


@pytest.mark.parametrize(
    ("ink", "told"),
    [
        (13.0, "The model or what asked it broke: RuntimeError: no digit"),
        (14.0, "The memory did not suffice"),
        (15.0, "The process that ran the model ended (signal SIGABRT)"),
        (16.0, "No answer within 3 s: the process was ended"),
    ],
)
def test_a_model_that_misbehaves_costs_a_message(
    page, shared: Desk, monkeypatch: pytest.MonkeyPatch, ink: float, told: str
) -> None:
    app = page(model="digits@1", by="upload", explainers=["saliency"])
    upload(app, shared, ink / 2, monkeypatch)  # after a crash in the test before, this starts a new process
    assert not app.error, app.error[0].value
    assert said(app).startswith("predicted ")
    if ink == 16.0:
        monkeypatch.setattr(live, "ALLOWED", (3,))
        monkeypatch.setattr(live, "SECONDS", 3)
    upload(app, shared, ink, monkeypatch)
    assert not app.exception
    assert plain(app.error[0].value).startswith(told)
    assert [button.label for button in app.button] == ["Try again"]
    number = shared.worker.process
    assert (number is None) == (ink > 14)
    asked = shared._count
    app.run()  # drawing the page again does not ask again
    assert plain(app.error[0].value).startswith(told)
    assert shared._count == asked


def test_the_same_request_is_asked_again_only_when_the_reader_says_so(
    page, shared: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = upload(page(model="digits@1", by="upload", explainers=["saliency"]), shared, 13.0, monkeypatch)
    asked: list[str] = []
    ask = shared.worker.ask
    monkeypatch.setattr(
        shared.worker, "ask", lambda request, seconds=None: asked.append(request["do"]) or ask(request, seconds)
    )
    app.run()
    assert asked == []
    app.button[0].click().run()
    assert [do for do in asked if do != "open"] == ["predict"]
    assert "no digit" in app.error[0].value


def test_what_ran_out_of_time_is_asked_again_once_there_is_more_of_it(
    shared: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([WorkerFailed("late", "3"), {"said": "3"}])

    def ask(request: object) -> dict[str, str]:
        found = next(answers)
        if isinstance(found, WorkerFailed):
            raise found
        return found

    monkeypatch.setattr(shared.worker, "ask", ask)
    request = {"do": "wait"}
    monkeypatch.setattr(shared.worker, "seconds", 3.0)
    assert shared.ask(request) is shared.ask(request) is shared.known(request)
    monkeypatch.setattr(shared.worker, "seconds", 10.0)
    assert shared.known(request) is None
    assert isinstance(shared.ask(request), Answered)


# --- the page itself ---------------------------------------------------------------------------------------------


def test_an_empty_home_says_how_to_start(opened, home) -> None:
    app = opened("live")
    assert "No model is registered" in app.info[0].value
    assert "audit model add" in app.code[0].value


def test_a_row_that_is_none_is_one_line_with_a_way_back(page) -> None:
    app = page(model="digits@1", row="100000")
    assert "there is no row 100,000: choose one of 0 to 538" in plain(app.error[0].value)
    assert app.get("page_link")


def test_the_dashboard_itself_never_imports_torch() -> None:
    """Neither by name nor through what it imports: the worker alone does."""
    folder = Path(live.__file__).parents[1]
    for path in (
        folder / "views" / "live.py",
        folder / "views" / "new_audit.py",
        *(folder / f"working/{name}.py" for name in ("desk", "worker", "audits", "drafting")),
        folder / "reading/scenarios.py",
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {name.split(".")[0] for name in names} & {"torch"}, path
            assert "dashboard.working.answers" not in names, path
    code = """\
import sys
from pathlib import Path
from dashboard.views import live, new_audit
from dashboard.working import audits, desk, drafting
from dashboard.reading import registered, scenarios
from audit.names import available
from audit.registry.store import Registry
from audit.run_folder import Evidence
from audit.scenario import parse
for card in registered.cards(Path(sys.argv[1])):
    live.fitting(card), live.attacks_on(card), scenarios.rows_for(card, Path(sys.argv[1]))
for check in available("checks"):
    drafting.fields(check), drafting.metrics(check)
drafting.plan_of("name: n\\nmodel: m\\ndata: {source: sklearn.iris}\\nchecks: [performance.classification]\\n")
print("torch" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(Path.cwd())], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.strip() == "False"
