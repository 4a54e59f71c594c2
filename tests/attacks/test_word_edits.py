"""Word edits: closed forms, limits, synonyms from outside, planted pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from texts import PRAISE, attacked, keyword_model, mark_model, praised, rows, text_model, word_model
from toys import context, data

from audit.attacks import build, confirm
from audit.attacks._text_search import Answer, Edit, applied
from audit.attacks.word_edits import WordEdits
from audit.data import Batch
from audit.finding import ThreatModel
from audit.parameters import UserError
from audit.text import words

KEYWORDS = ("superb", "lovely", "charming")
TEXT = "Plainly a superb play, with lovely music and charming people in it"


def one(edits: str, text: str = TEXT, keywords: tuple[str, ...] = ("superb",), **parameters: Any) -> str:
    """What a single kind of edit makes of a text that hangs on one keyword."""
    attack = WordEdits(edits=(edits,), **parameters)
    (found,), _, _ = attacked(attack, keyword_model(keywords, len(keywords)), [text], [1])
    return found


# --- closed form ---------------------------------------------------------------------------------------------------


def test_each_kind_of_edit_alone() -> None:
    assert one("case") in {TEXT.replace("superb", new) for new in ("SUPERB", "Superb")}
    split = one("split")
    assert split.replace(" ", "") == TEXT.replace(" ", "")
    assert len(split) == len(TEXT) + 1
    assert one("merge") == TEXT.replace("superb play", "superbplay")
    assert one("delete") == TEXT.replace("superb ", "")
    assert one("synonym", synonyms={"superb": ("fine",)}) == TEXT.replace("superb", "fine")
    assert one("repeat") == TEXT  # it still stands there, twice
    once = text_model(lambda texts: [1.5 - text.count("superb") for text in texts], "margin")
    (found,), _, _ = attacked(WordEdits(edits=("repeat",)), once, [TEXT], [1])
    assert found == TEXT.replace("superb", "superb superb")


def test_a_deleted_word_takes_one_space_with_it() -> None:
    assert one("delete", "superb film") == "film"
    assert one("delete", "a film, superb (really)", max_share=1) == "a film, (really)"
    assert one("delete", "how superb , really", keywords=("superb",)) == "how , really"
    (found,), _, _ = attacked(
        WordEdits(edits=("delete",)),
        text_model(lambda t: [0.5 - ("superb" not in s) for s in t], "margin"),
        ["how superb!"],
        [1],
    )
    assert found == "how!"


def test_synonyms_follow_the_case() -> None:
    model = text_model(lambda texts: [0.5 - ("superb" not in text.lower()) for text in texts], "margin")
    attack = WordEdits(edits=("synonym",), synonyms={"superb": ("fine",)})
    for text, wanted in (("Superb film", "Fine film"), ("SUPERB film", "FINE film"), ("superb film", "fine film")):
        assert attacked(attack, model, [text], [1])[0] == [wanted]


@pytest.mark.parametrize("feedback", ["scores", "labels"])
def test_exactly_as_many_words_are_edited_as_must_be(feedback: str) -> None:
    model = keyword_model(KEYWORDS, 2, "margin" if feedback == "scores" else "label")
    for max_edits, success in ((1, False), (2, True), (4, True)):
        attack = WordEdits(edits=("case",), feedback=feedback, max_edits=max_edits, max_share=1, restarts=5)
        (found,), _, confirmed = attacked(attack, model, [TEXT], [1])
        assert bool(confirmed.success) == success
        assert sum(a != b for a, b in zip(TEXT.split(), found.split(), strict=True)) == 2 * success


def test_what_keeps_the_words_comes_first() -> None:
    either = text_model(lambda texts: [0.5 - ("superb" not in text) for text in texts], "margin")
    assert "superb" in attacked(WordEdits(), either, [TEXT], [1])[0][0].replace(" ", "").lower()
    no_case = text_model(
        lambda texts: [0.5 - ("superb" not in text.lower().replace(" ", "")) for text in texts], "margin"
    )
    assert attacked(WordEdits(), no_case, [TEXT], [1])[0][0] == TEXT.replace("superb ", "")


def test_function_words_are_kept_unless_told_otherwise() -> None:
    model = keyword_model(["not"], 1)
    text = "it is not good"
    assert not attacked(WordEdits(), model, [text], [1])[2].success
    assert attacked(WordEdits(keep=()), model, [text], [1])[2].success
    assert not attacked(WordEdits(keep=("Not",)), model, [text], [1])[2].success


def test_words_are_not_merged_with_kept_ones() -> None:
    assert one("merge", "superb and fine") == "superb and fine"
    assert one("merge", "superb and fine", keep=()) == "superband fine"
    assert one("merge", "superb, fine", keywords=("superb,",)) == "superb, fine"


# --- synonyms from a file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["superb: [fine, neat]\n", '{"superb": ["fine"]}'])
def test_synonyms_from_a_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(content)
    model = keyword_model(["superb"], 1)
    attack = WordEdits(edits=("synonym",), synonyms_file=str(tmp_path / "words.yaml"))
    nothing = data(Batch(np.zeros((1, 1, 1, 1)), np.zeros(1, dtype=int), ("a",)))
    fitted = attack.fit(model, nothing, context(tmp_path))
    assert attacked(fitted, model, [TEXT], [1])[0][0] in {TEXT.replace("superb", new) for new in ("fine", "neat")}
    assert attack.fit(model, nothing, context(tmp_path)).synonyms == fitted.synonyms
    mixed = WordEdits(edits=("synonym",), synonyms={"superb": ("own",)}, synonyms_file=str(tmp_path / "words.yaml"))
    assert mixed.fit(model, nothing, context(tmp_path)).synonyms == {"superb": ("own",)}


@pytest.mark.parametrize(
    ("content", "said"), [("- a\n", "must map words"), ("a: [1]\n", "must map words"), ("a: [\n", "neither YAML")]
)
def test_a_file_that_is_none_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(content)
    nothing = data(Batch(np.zeros((1, 1, 1, 1)), np.zeros(1, dtype=int), ("a",)))
    for name, words_said in (("words.yaml", said), ("none.yaml", "cannot be read")):
        attack = WordEdits(edits=("synonym",), synonyms_file=str(tmp_path / name))
        with pytest.raises(UserError, match=words_said) as caught:
            attack.fit(word_model(), nothing, context(tmp_path))
        assert "\n" not in str(caught.value)


def test_synonyms_and_their_edit_belong_together() -> None:
    with pytest.raises(ValidationError, match="are needed for the edit"):
        WordEdits(edits=("synonym",))
    with pytest.raises(ValidationError, match="is not among the edits"):
        WordEdits(synonyms={"a": ("b",)})
    assert build({"word_edits": {"edits": ["synonym"], "synonyms": {"a": ["b"]}}})[0] == "word_edits"


# --- planted pair --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["scores", "labels"])
def test_words_break_and_marks_do_not(feedback: str) -> None:
    attack = WordEdits(feedback=feedback)
    texts, labels = praised(word_model())
    assert attacked(attack, word_model(), texts, labels)[2].success.double().mean() > 0.9
    texts, labels = praised(mark_model())
    assert not attacked(attack, mark_model(), texts, labels)[2].success.any()


def test_case_alone_does_not_break_a_model_that_ignores_case() -> None:
    texts, labels = praised(word_model())
    assert not attacked(WordEdits(edits=("case",)), word_model(), texts, labels)[2].success.any()
    exchange = WordEdits(edits=("synonym",), synonyms=dict.fromkeys(PRAISE, ("quite",)))
    assert attacked(exchange, word_model(), texts, labels)[2].success.double().mean() > 0.9


# --- what `confirm` refuses ----------------------------------------------------------------------------------------

EVERYTHING = ("case", "split", "merge", "repeat", "synonym", "delete")
FORGED = {
    "function word": TEXT.replace("with ", ""),
    "a word more": TEXT + " now",
    "another word": TEXT.replace("superb", "dull"),
    "its mark gone": TEXT.replace("play,", "play"),
    "too many": TEXT.replace("superb ", "").replace("lovely ", "").replace("charming ", ""),
    "both spaces gone": TEXT.replace(" superb ", ""),
    "two spaces inside": TEXT.replace("superb", "su pe rb"),
    "misspelt": TEXT.replace("superb", "suprb"),
    "three times": TEXT.replace("superb", "superb superb superb"),
    "split and shouted": TEXT.replace("superb", "SU PERB"),
    "protected": TEXT.replace("people", "PEOPLE"),
    "merged with a kept word": TEXT.replace("a superb", "asuperb"),
}


@pytest.mark.parametrize("candidate", FORGED.values(), ids=FORGED)
def test_confirm_refuses_what_was_not_declared(candidate: str) -> None:
    attack = WordEdits(edits=EVERYTHING, synonyms={"superb": ("fine",)}, max_edits=2, max_share=1, protect="people")
    always = text_model(lambda texts: [[0.9, 0.1]] * len(texts))
    fine = TEXT.replace("superb", "fine").replace("lovely music", "lovelymusic")
    found = confirm(
        always,
        rows([TEXT] * 2),
        torch.tensor([1, 1]),
        rows([candidate, fine]),
        ThreatModel(access="black_box_scores"),
        attack,
    )
    assert found.refused.tolist() == [True, False]
    assert found.success.tolist() == [False, True]


@pytest.mark.parametrize("kind", EVERYTHING)
def test_confirm_refuses_a_kind_that_was_not_declared(kind: str) -> None:
    new = {
        "case": "SUPERB", "split": "su perb", "merge": "superbplay", "repeat": "superb superb", "synonym": "fine", "delete": "",
    }[kind]  # fmt: skip
    candidate = TEXT.replace("superb play" if kind == "merge" else "superb " if kind == "delete" else "superb", new)
    others = tuple(other for other in EVERYTHING if other != kind)
    synonyms = {"superb": ("fine",)}
    assert WordEdits(edits=EVERYTHING, synonyms=synonyms).follows(TEXT, candidate, 1)
    assert not WordEdits(edits=others, synonyms={} if kind == "synonym" else synonyms).follows(TEXT, candidate, 1)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_search_may_do_is_permitted_and_no_fewer_edits_are_claimed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    awkward = [
        "Well... the\tfilm,   was\nquite-good! (really) Cafe\u0301 naïve don’t stop",
        "Очень хороший фильм, 2 раза смотрел — отлично",
        "aa  aa aa, bb bb\n\ncc",
    ]
    for text in awkward:
        spans = words(text)
        for _ in range(60):
            attack = WordEdits(
                edits=(*rng.permutation(EVERYTHING)[: rng.integers(1, 7)], "synonym"),
                synonyms={"film": ("movie", "a flick"), "aa": ("bb",), "фильм": ("кино",)}, keep=(), max_share=1,
            )  # fmt: skip
            taken: list[Any] = []
            for word in rng.permutation(len(spans))[:4]:
                edits = [edit for group in attack.options(text, spans, word) for edit in group]
                if not edits:
                    continue
                drawn = edits[rng.integers(len(edits))]
                if not any(drawn.overlaps(other) for other in taken):
                    taken.append(drawn)
            candidate = applied(text, taken)
            assert attack.follows(text, candidate, len(taken)), (text, candidate, attack.edits, taken)
            assert attack.follows(text, candidate, 0) == (candidate == text)


def test_constraints_in_words() -> None:
    assert "at most 10 edits and 25% of the words" in WordEdits().constraints()
    assert "words are never edited (a, an, the …)" in WordEdits().constraints()
    assert "never edited" not in WordEdits(keep=()).constraints()


def test_taking_an_edit_back_never_asks_about_a_text_that_does_not_fit() -> None:
    edits = [Edit(0, 3, ""), Edit(5, 5, " ")]  # the second fits because the first made room
    search = WordEdits()._needed("ab cdef", edits, 7)
    assert next(search) == ["cdef"]
    with pytest.raises(StopIteration) as ended:  # without having asked about "ab c def"
        search.send([Answer(1.0, False)])
    assert ended.value.value == edits
