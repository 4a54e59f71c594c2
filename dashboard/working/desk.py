"""One reader's worker, and what it answered: a question that was asked before is not asked again, and one that went wrong is not either,
until the reader says so."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from audit.parameters import UserError
from audit.registry.card import ModelCard
from dashboard.parts import markdown
from dashboard.reading import stored
from dashboard.words import _
from dashboard.working.worker import Worker, WorkerFailed

TARGET = "dashboard.working.answers:answer"
SECONDS = 30
"""That an answer may take, unless the reader allows more."""
KEPT = 24
"""Answers that are kept."""
DESK = "_desk"


@dataclass(frozen=True)
class Answered:
    """An answer.

    Args:
        folder: where its evidence lies.
    """

    facts: Mapping[str, Any]
    folder: Path


Reply = Answered | WorkerFailed | UserError


class Desk:
    """A worker and its answers, for one session; both go when the session does, with the `folder` of its files."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="assay-live-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.worker = Worker(TARGET, seconds=SECONDS)
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self._count = 0

    def known(self, request: Mapping[str, Any]) -> Reply | None:
        """What was answered to this very request before, unless time ran out and there is more of it now."""
        reply = self._replies.get(_key(request))
        return None if self._has_more_time(reply) else reply

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """The answer, or why there is none."""
        key = _key(request)
        if key not in self._replies or self._has_more_time(self._replies[key]):
            self._count += 1
            folder = self.folder / str(self._count)
            try:
                self._replies[key] = Answered(self.worker.ask({**request, "out": str(folder)}), folder)
            except (WorkerFailed, UserError) as error:
                self._replies[key] = error
            while len(self._replies) > KEPT:
                _, oldest = self._replies.popitem(last=False)
                if isinstance(oldest, Answered):
                    shutil.rmtree(oldest.folder, ignore_errors=True)
        self._replies.move_to_end(key)
        return self._replies[key]

    def _has_more_time(self, reply: Reply | None) -> bool:
        return isinstance(reply, WorkerFailed) and reply.why == "late" and self.worker.seconds > float(reply.said)

    def forget(self, request: Mapping[str, Any]) -> None:
        """Ask again next time."""
        self._replies.pop(_key(request), None)

    def keep_file(self, name: str, content: bytes) -> Path:
        """Put an uploaded file where the worker reads it; equal content has an equal path."""
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:16]}-{Path(name).name[-60:]}"
        if not path.exists():
            path.write_bytes(content)
        return path


def desk() -> Desk:
    """This session's."""
    if DESK not in st.session_state:
        st.session_state[DESK] = Desk()
    found: Desk = st.session_state[DESK]
    return found


def request(do: str, card: ModelCard, data: str | None, given: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A question about one input; see `dashboard.working.answers.answer`."""
    return {
        "do": do, "home": str(stored.home().resolve()), "model": card.ref, "digest": card.digest, "data": data, "input": given,
        **more,
    }  # fmt: skip


def answered(asked: Mapping[str, Any], doing: str, *, key: str) -> Answered | None:
    """Ask, and say what went wrong where there is no answer.

    Args:
        doing: what the reader sees meanwhile.
        key: of the button that asks again.
    """
    here = desk()
    reply = here.known(asked)
    if reply is None:
        with st.spinner(doing, show_time=True):
            reply = here.ask(asked)
    if isinstance(reply, Answered):
        return reply
    st.error(markdown.plain(_failure(reply)), icon=":material/error:")
    if isinstance(reply, WorkerFailed):
        if reply.log:
            with st.expander(_("What the process printed")):
                st.code(reply.log, language=None)
        st.button(_("Try again"), key=key, on_click=here.forget, args=(asked,), icon=":material/refresh:")
    return None


def _failure(reply: WorkerFailed | UserError) -> str:
    if isinstance(reply, UserError):
        return str(reply)
    return {
        "late": _("No answer within {seconds} s: the process was ended, and the next request starts a new one. Allow more time, or ask for less."),
        "memory": _("The memory did not suffice ({said}). Ask for less, or for an explainer or attack that takes less."),
        "ended": _("The process that ran the model ended ({said}). The next request starts a new one."),
        "broke": _("The model or what asked it broke: {said}"),
    }[reply.why].format(seconds=reply.said, said=reply.said)  # fmt: skip


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True)
