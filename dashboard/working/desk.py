"""One reader's worker, and what it answered: a question that was asked before is not asked again, and one that went wrong is not either,
until the reader says so."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from audit.language import spoken
from audit.parameters import UserError
from audit.registry.card import ModelCard
from audit.report._told import told
from dashboard.parts import markdown
from dashboard.reading import stored
from dashboard.words import _
from dashboard.working.worker import Worker, WorkerFailed

TARGET = "dashboard.working.answers:answer"
SECONDS = 60
"""That an answer may take, unless the reader allows more."""
OPENING = 180
"""Seconds that opening a model and its data may take: libraries are read then, and a busy machine reads slowly."""
KEPT = 500
"""Answers that are kept."""
BYTES = 300_000_000
"""That the evidence of the answers that are kept may take."""
WORDED = ("look", "predict")
"""Requests whose answers hold sentences: those of another language are other requests."""
DESK = "_desk"


@dataclass(frozen=True)
class Answered:
    """An answer.

    Args:
        folder: where its evidence lies.
        seconds: that it took.
        bytes: of its evidence.
    """

    facts: Mapping[str, Any]
    folder: Path
    seconds: float = 0.0
    bytes: int = 0


Reply = Answered | WorkerFailed | UserError


class Desk:
    """A worker and its answers, for one session; both go when the session does, with the `folder` of its files."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="assay-live-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.worker = Worker(TARGET, seconds=SECONDS)
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self._asked: dict[str, Mapping[str, Any]] = {}
        self._open: tuple[int | None, str] = (None, "")
        self._count = 0

    def known(self, request: Mapping[str, Any]) -> Reply | None:
        """What was answered to this very request before, unless time ran out and there is more of it now."""
        key = _key(request)
        reply = self._replies.get(key)
        if reply is None or self._has_more_time(reply):
            return None
        self._replies.move_to_end(key)
        return reply

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """The answer, or why there is none."""
        if (reply := self.known(request)) is not None:
            return reply
        key = _key(request)
        reply = self._replies[key] = self._answer(request)
        self._asked[key] = request
        while len(self._replies) > KEPT or (len(self._replies) > 1 and self._bytes() > BYTES):
            self._drop(next(iter(self._replies)))
        return reply

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        self._count += 1
        folder = self.folder / str(self._count)
        began = time.monotonic()
        try:
            facts = self.worker.ask({**request, "out": str(folder)})
        except WorkerFailed as error:
            return WorkerFailed(error.why, self._local(error.said), self._local(error.log))
        except UserError as error:
            return UserError(self._local(str(error)))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return Answered(facts, folder, time.monotonic() - began, sum(path.stat().st_size for path in files))

    def is_open(self, request: Mapping[str, Any]) -> bool:
        """Whether the model and the data of a request are what the process opened last."""
        return self.worker.process is not None and self._open == (self.worker.process, _key(opening(request)))

    def open(self, request: Mapping[str, Any]) -> WorkerFailed | UserError | None:
        """Open the model and the data of a request: the time that this takes is not the request's. Gives why they do not open."""
        question = opening(request)
        key = _key(question)
        if isinstance(failed := self._replies.get(key), (WorkerFailed, UserError)):
            return failed
        try:
            self.worker.ask({**question, "out": str(self.folder)}, seconds=OPENING)
        except (WorkerFailed, UserError) as error:
            self._replies[key] = error
            return error
        self._open = (self.worker.process, key)
        return None

    def earlier(self, request: Mapping[str, Any], name: str) -> list[tuple[Any, Answered]]:
        """What was answered to the same request with another value of one entry, and to this one: value and answer."""
        rest = {key: value for key, value in request.items() if key != name}
        return [
            (asked[name], reply)
            for key, asked in self._asked.items()
            if isinstance(reply := self._replies.get(key), Answered)
            and name in asked
            and rest == {key: value for key, value in asked.items() if key != name}
        ]

    def _has_more_time(self, reply: Reply) -> bool:
        return isinstance(reply, WorkerFailed) and reply.why == "late" and self.worker.seconds > float(reply.said)

    def _bytes(self) -> int:
        return sum(reply.bytes for reply in self._replies.values() if isinstance(reply, Answered))

    def _drop(self, key: str) -> None:
        self._asked.pop(key, None)
        if isinstance(reply := self._replies.pop(key, None), Answered):
            shutil.rmtree(reply.folder, ignore_errors=True)

    def forget(self, request: Mapping[str, Any]) -> None:
        """Ask again next time."""
        self._drop(_key(request))
        self._drop(_key(opening(request)))

    def keep_file(self, name: str, content: bytes) -> Path:
        """Put an uploaded file where the worker reads it; equal content has an equal path."""
        folder = self.folder / "files" / hashlib.sha256(content).hexdigest()[:16]
        path = folder / (re.sub(r"[^\w.-]+", "_", Path(name).name)[-80:] or "_")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path

    def _local(self, text: str) -> str:
        """Without the folders of this machine: an uploaded file by its own name."""
        return re.sub(rf"{re.escape(str(self.folder))}/(files/\w+|\d+/given)/", "", text)


def desk() -> Desk:
    """This session's."""
    if DESK not in st.session_state:
        st.session_state[DESK] = Desk()
    found: Desk = st.session_state[DESK]
    return found


def request(do: str, card: ModelCard, data: str | None, given: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A question about one input; see `dashboard.working.answers.answer`."""
    told_there = {"language": spoken()} if do in WORDED else {}
    return {
        "do": do, **told_there, "home": str(stored.home().resolve()), "model": card.ref, "digest": card.digest, "data": data, "input": given,
        **more,
    }  # fmt: skip


def opening(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The question that opens what a request is about."""
    return {name: asked.get(name) for name in ("home", "model", "digest", "data")} | {"do": "open"}


def answered(asked: Mapping[str, Any], doing: str, *, key: str) -> Answered | None:
    """Ask, and say what went wrong where there is no answer.

    Args:
        doing: what the reader sees meanwhile.
        key: of the button that asks again.
    """
    here = desk()
    reply: Reply | None = here.known(asked)
    if reply is None and not here.is_open(asked):
        with st.spinner(_("starting the process and opening the model …"), show_time=True):
            reply = here.open(asked)
        if reply is not None:
            said = _too_slow(reply) if isinstance(reply, WorkerFailed) and reply.why == "late" else _failure(reply)
            _tell(said, reply, asked, key, again=True)
            return None
    if reply is None:
        with st.spinner(doing, show_time=True):
            reply = here.ask(asked)
    if isinstance(reply, Answered):
        return reply
    _tell(_failure(reply), reply, asked, key, again=isinstance(reply, WorkerFailed))
    return None


def _tell(said: str, reply: WorkerFailed | UserError, asked: Mapping[str, Any], key: str, *, again: bool) -> None:
    """Why there is no answer, on one line, and a way on."""
    st.error(markdown.plain(said), icon=":material/error:")
    if isinstance(reply, WorkerFailed) and reply.log:
        with st.expander(_("What the process printed")):
            st.code(reply.log, language=None)
    if again:
        st.button(_("Try again"), key=key, on_click=desk().forget, args=(asked,), icon=":material/refresh:")


def _too_slow(reply: WorkerFailed) -> str:
    return _("The model was not open within {seconds} s: the process was ended, and the next request starts a new one.").format(
        seconds=reply.said
    )  # fmt: skip


def _failure(reply: WorkerFailed | UserError) -> str:
    if isinstance(reply, UserError):
        return told(str(reply))
    return {
        "late": _("No answer within {seconds} s: the process was ended, and the next request starts a new one. Allow more time, or ask for less."),
        "memory": _("The memory did not suffice ({said}). Ask for less, or for an explainer or attack that takes less."),
        "ended": _("The process that ran the model ended ({said}). The next request starts a new one."),
        "broke": _("The model or what asked it broke: {said}"),
    }[reply.why].format(seconds=reply.said, said=reply.said)  # fmt: skip


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True)
