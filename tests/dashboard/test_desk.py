"""A reader's desk: what is asked once, what is forgotten, and that opening a model takes nothing from an answer's time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from audit.parameters import UserError
from dashboard.working import desk
from dashboard.working.desk import Answered, Desk, opening
from dashboard.working.worker import WorkerFailed

PLANTED = """\
import pathlib, time
from audit.parameters import UserError


def answer(request):
    out = pathlib.Path(request["out"])
    if request["do"] == "open":
        if request["model"] == "refused":
            raise UserError("this model is not trusted")
        time.sleep(request["data"] or 0)
        return {}
    if request["do"] == "read":
        raise UserError(f"{request['input']} is torn")
    out.mkdir(parents=True)
    (out / "map").write_bytes(bytes(1000))
    return {"eps": request.get("eps")}
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "planted_desk.py").write_text(PLANTED)
    sys.path.insert(0, str(folder))
    yield "planted_desk:answer"
    sys.path.remove(str(folder))


@pytest.fixture
def here(target: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(desk, "TARGET", target)
    found = Desk()
    yield found
    found.worker.close()


def test_opening_has_a_time_of_its_own(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    here.worker.seconds = 0.3
    request = {"do": "predict", "model": "slow", "data": 0.8}
    assert not here.is_open(request)
    assert here.open(request) is None
    assert here.is_open(request)
    assert isinstance(here.ask(request), Answered)
    here.worker.close()
    assert not here.is_open(request)
    monkeypatch.setattr(desk, "OPENING", 0.3)
    failed = here.open(request)
    assert isinstance(failed, WorkerFailed)
    assert failed.why == "late"
    assert here.open(request) is failed  # until the reader says so
    here.forget(request)
    monkeypatch.setattr(desk, "OPENING", 20)
    assert here.open(request) is None


def test_a_model_that_does_not_open_says_why(here: Desk) -> None:
    failed = here.open({"do": "predict", "model": "refused"})
    assert isinstance(failed, UserError)
    assert str(failed) == "this model is not trusted"


def test_the_same_question_is_asked_once_and_answers_make_room(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [{"do": "attack", "eps": eps} for eps in (1, 2, 3)]
    first, second, _third = (here.ask(one) for one in asked)
    assert here.ask(asked[0]) is first
    assert here._count == 3
    assert [eps for eps, _reply in here.earlier(asked[0], "eps")] == [1, 2, 3]
    assert here.earlier({"do": "attack", "norm": "l2", "eps": 1}, "eps") == []
    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert first.bytes == 1000
    monkeypatch.setattr(desk, "BYTES", 2500)
    here.ask({"do": "attack", "eps": 4})
    assert here.known(asked[0]) is first  # it was asked for after the second
    assert here.known(asked[1]) is None
    assert first.folder.exists()
    assert not second.folder.exists()


def test_a_file_is_told_by_its_name(here: Desk) -> None:
    path = here.keep_file("../my face.png", b"torn")
    assert path.name == "my_face.png"
    assert path == here.keep_file("my face.png", b"torn")
    refused = here.ask({"do": "read", "input": str(path)})
    assert str(refused) == "my_face.png is torn"


def test_what_opens_a_request_is_the_model_and_its_data() -> None:
    request = {"do": "attack", "home": "h", "model": "m@1", "digest": "d", "data": None, "input": {"row": 3}, "eps": 1}
    assert opening(request) == {"do": "open", "home": "h", "model": "m@1", "digest": "d", "data": None}
