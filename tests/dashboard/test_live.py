"""The page that explores a model live: rows, uploads, texts and edited tables, maps and attacks, and what it says where the model
hangs, crashes or hoards. The worker is a real one, shared by these tests."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import registered
from drawn import html
from streamlit.testing.v1 import AppTest

from audit.registry.store import Registry
from dashboard.parts import feeding
from dashboard.views import live
from dashboard.working import desk
from dashboard.working.desk import Answered, Desk
from dashboard.working.worker import WorkerFailed

APP = Path(desk.__file__).parents[1] / "app.py"
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
    assert "withstood: pgd found no other answer" in said(app)
    asked = len(shared._replies)
    page(**query, eps_linf="8")  # the link opens it again, and nothing is asked twice
    assert len(shared._replies) == asked


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
    assert "there are 539 rows" in plain(app.error[0].value)
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
