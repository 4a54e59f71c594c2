"""Character edits: closed forms, the declared limits held to, planted pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from texts import attacked, keyword_model, mark_model, praised, rows, streams, text_model, word_model
from toys import Linear, audited

from audit.attacks import build, confirm
from audit.attacks._text_search import Edit, applied
from audit.attacks.character_edits import CharacterEdits
from audit.finding import ThreatModel
from audit.model import Capability, NonFiniteOutput
from audit.parameters import UserError
from audit.text import HOMOGLYPHS, NEIGHBOURS, decode_all, encode, levenshtein, skeleton, words

KEYWORDS = ("superb", "lovely", "charming")
TEXT = "Plainly a superb play with lovely music and charming people in it"


def changed(old: str, new: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in zip(old.split(" "), new.split(" "), strict=True) if a != b]


# --- closed form: a model that counts keywords ---------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["scores", "labels"])
@pytest.mark.parametrize("needed", [1, 2, 3])
def test_exactly_as_many_words_are_edited_as_must_be(feedback: str, needed: int) -> None:
    model = keyword_model(KEYWORDS, needed, "margin" if feedback == "scores" else "label")
    least = len(KEYWORDS) + 1 - needed
    for max_edits in range(1, 5):
        attack = CharacterEdits(feedback=feedback, max_edits=max_edits, max_share=1, restarts=4)
        (text,), _, confirmed = attacked(attack, model, [TEXT], [1])
        assert bool(confirmed.success) == (max_edits >= least)
        if max_edits >= least:
            pairs = changed(TEXT, text)
            assert len(pairs) == least
            assert {old for old, _ in pairs} <= set(KEYWORDS)


def test_each_kind_of_edit_alone() -> None:
    model = keyword_model(["superb"], 1)

    def edited(kind: str) -> str:
        (text,), _, _ = attacked(CharacterEdits(edits=(kind,)), model, [TEXT], [1])
        (start, end) = TEXT.index("superb"), len(TEXT) - TEXT.index("superb") - len("superb")
        return text[start : len(text) - end]

    assert edited("swap") in {"spuerb", "suepbr", "suprberb", "sueprb", "suprеb", "suprb", "supreb"}
    assert edited("delete") in {"sperb", "suerb", "suprb", "supeb"}
    (old, new), *more = [(a, b) for a, b in zip("superb", edited("homoglyph"), strict=True) if a != b]
    assert not more
    assert new in HOMOGLYPHS[old]
    (old, new), *more = [(a, b) for a, b in zip("superb", edited("keyboard"), strict=True) if a != b]
    assert not more
    assert new in NEIGHBOURS[old]
    assert edited("space").replace(" ", "") == "superb"
    assert edited("zero_width").replace("\u200b", "") == "superb"


def test_first_and_last_letters_stay_unless_told_otherwise() -> None:
    def ends(texts: list[str]) -> list[float]:
        return [0.5 if text.startswith("s") and text.endswith("b") else -0.5 for text in texts]

    model = text_model(ends, "margin")
    for keep_ends, success in ((True, False), (False, True)):
        _, _, confirmed = attacked(CharacterEdits(keep_ends=keep_ends), model, ["superb"], [1])
        assert bool(confirmed.success) == success


def test_limits() -> None:
    model = keyword_model(KEYWORDS, 1)
    text = f"{TEXT} " + "so we went home by tram and bus"

    def success(**parameters: Any) -> bool:
        return bool(attacked(CharacterEdits(**parameters), model, [text], [1])[2].success)

    assert success(max_share=1)
    assert success(max_share=3 / 20)
    assert not success(max_share=2.9 / 20)
    assert not success(max_share=1, max_edits=2)
    assert success(max_share=1, similarity=1 - 3 / len(text), edits=("homoglyph",))
    assert not success(max_share=1, similarity=1 - 2.5 / len(text), edits=("homoglyph",))
    assert success(protect="")
    assert not success(protect="love.y|[0-9]")


def test_addresses_and_mentions_are_protected_by_default() -> None:
    model = keyword_model(["@superb"], 1)
    assert not attacked(CharacterEdits(), model, ["hello @superb people"], [1])[2].success
    assert attacked(CharacterEdits(protect="x"), model, ["hello @superb people"], [1])[2].success


def test_there_must_be_room_to_lengthen() -> None:
    model = keyword_model(["superb"], 1)
    for length, success in ((len(TEXT), False), (len(TEXT) + 1, True)):
        tight = text_model(lambda texts: model.scores(rows(texts, 160)).tolist(), "margin", length)
        assert bool(attacked(CharacterEdits(edits=("space",)), tight, [TEXT], [1])[2].success) == success


def test_more_tries_and_restarts_find_the_one_edit_that_works() -> None:
    def only_one(texts: list[str]) -> list[float]:
        return [-0.5 if "sup3rb" in text or "supеrb" in text else 0.5 for text in texts]

    model = text_model(only_one, "margin")

    def successes(**parameters: Any) -> int:
        attack = CharacterEdits(edits=("homoglyph", "keyboard"), **parameters)
        return int(attacked(attack, model, [TEXT] * 30, [1] * 30)[2].success.sum())

    assert successes(tries=60) == 30
    few = successes(tries=2, restarts=1)
    assert 0 < few < successes(tries=2, restarts=8)


# --- queries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["scores", "labels"])
def test_the_cap_on_queries_is_never_exceeded(feedback: str) -> None:
    model = keyword_model(KEYWORDS, 2, "margin" if feedback == "scores" else "label")
    attack = CharacterEdits(feedback=feedback, max_share=1)
    won = []
    for cap in (1, 2, 3, 5, 8, 20, 60, 200):
        _, found, confirmed = attacked(attack, model, [TEXT] * 8, [1] * 8, queries=cap)
        assert int(found.queries.max()) <= cap
        won.append(int(confirmed.success.sum()))
    assert won[0] == 0
    assert won[-1] == 8


def test_ranking_leaves_half_of_the_cap_for_edits() -> None:
    _, found, confirmed = attacked(CharacterEdits(), keyword_model(["superb"], 1), [TEXT] * 16, [1] * 16, queries=10)
    assert int(found.queries.max()) <= 10  # as many as ranking all nine words of more than two letters would take
    assert int(confirmed.success.sum()) > 0


@pytest.mark.parametrize("feedback", ["scores", "labels"])
def test_an_example_is_attacked_as_if_it_were_alone(feedback: str) -> None:
    model = word_model()
    texts, labels = praised(model, 5)
    attack = CharacterEdits(feedback=feedback, tries=6)
    together, found, _ = attacked(attack, model, texts, labels)
    x, y = rows(texts), torch.as_tensor(labels)
    for i in range(5):
        threat = ThreatModel(access=attack.access)
        alone = attack.run(model, x[i : i + 1], y[i : i + 1], threat, streams(5).take([i]))
        assert decode_all(alone.x) == together[i : i + 1]
        assert int(alone.queries) == int(found.queries[i])
    elsewhere, _, _ = attacked(attack, model, texts, labels, seed=1)
    assert elsewhere != together


# --- planted pairs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["scores", "labels"])
def test_words_break_and_marks_do_not(feedback: str) -> None:
    attack = CharacterEdits(feedback=feedback)
    texts, labels = praised(word_model())
    assert attacked(attack, word_model(), texts, labels)[2].success.double().mean() > 0.9
    texts, labels = praised(mark_model())
    assert not attacked(attack, mark_model(), texts, labels)[2].success.any()


def test_a_model_that_normalises_look_alikes_withstands_them_and_nothing_else() -> None:
    alike = CharacterEdits(edits=("homoglyph", "zero_width"))
    for normalised in (False, True):
        model = word_model(normalised)
        texts, labels = praised(model)
        success = attacked(alike, model, texts, labels)[2].success
        assert bool(success.any()) != normalised
    assert attacked(CharacterEdits(edits=("swap",)), model, texts, labels)[2].success.any()


def test_a_readers_eye_sees_the_same_text() -> None:
    model = word_model()
    texts, labels = praised(model)
    found, _, confirmed = attacked(CharacterEdits(edits=("homoglyph",)), model, texts, labels)
    assert confirmed.success.any()
    assert [skeleton(text) for text in found] == [skeleton(text) for text in texts]
    assert any(old != new for old, new in zip(texts, found, strict=True))


# --- what `confirm` refuses ----------------------------------------------------------------------------------------

FORGED = {
    "two edits in a word": "Plainly a suербb".replace("суер", ""),
    "first letter": TEXT.replace("superb", "duperb"),
    "last letter": TEXT.replace("superb", "superv"),
    "another letter": TEXT.replace("superb", "suqerb"),
    "two in one word": TEXT.replace("charming", "chrmng"),
    "a word gone": TEXT.replace("superb ", ""),
    "a word more": TEXT + " now",
    "a mark between words": TEXT.replace("superb ", "superb, "),
    "space not declared": TEXT.replace("superb", "sup erb"),
    "too many": TEXT.replace("superb", "suprb").replace("lovely", "lovly").replace("charming", "charmng"),
    "protected": TEXT.replace("people", "peple"),
}


@pytest.mark.parametrize("candidate", FORGED.values(), ids=FORGED)
def test_confirm_refuses_what_was_not_declared(candidate: str) -> None:
    attack = CharacterEdits(max_edits=2, max_share=1, protect="people")
    always = text_model(lambda texts: [[0.9, 0.1]] * len(texts))
    x, y = rows([TEXT, TEXT]), torch.tensor([1, 1])
    fine = TEXT.replace("superb", "suprb").replace("lovely", "loevly")
    found = confirm(always, x, y, rows([candidate, fine]), ThreatModel(access="black_box_scores"), attack)
    assert found.refused.tolist() == [True, False]
    assert found.success.tolist() == [False, True]


def test_confirm_refuses_rows_that_are_no_text() -> None:
    always = text_model(lambda texts: [[0.9, 0.1]] * len(texts))
    hole = rows([TEXT])
    hole[0, 3] = 0
    assert CharacterEdits().permits(always, rows([TEXT]), hole).tolist() == [False]
    strange = rows([TEXT])
    strange[0, 3] = 0xD800
    assert CharacterEdits().permits(always, rows([TEXT]), strange).tolist() == [False]


def test_similarity_is_checked_again() -> None:
    attack = CharacterEdits(similarity=1 - 1.5 / len(TEXT), max_share=1)
    always = text_model(lambda texts: [[0.9, 0.1]] * len(texts))
    near, far = TEXT.replace("superb", "suprb"), TEXT.replace("superb", "suprb").replace("lovely", "lovly")
    assert attack.permits(always, rows([TEXT] * 2), rows([near, far])).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_search_may_do_is_permitted_and_one_edit_more_is_not(seed: int) -> None:
    """Random sets of edits of every kind on awkward texts, judged by code that knows nothing of how they were made."""
    rng = np.random.default_rng(seed)
    awkward = [
        "Well... the\tfilm,   was\nquite-good! (really) cafe\u0301 naïve don’t stop",
        "Очень хороший фильм, 2 раза смотрел — отлично",
        "a b cc ddd aaa aaaa baab  oooo",
    ]
    kinds = ("swap", "delete", "homoglyph", "keyboard", "space", "zero_width")
    for text in awkward:
        spans = words(text)
        for _ in range(40):
            attack = CharacterEdits(
                edits=tuple(rng.permutation(kinds)[: rng.integers(1, 7)]), keep_ends=bool(rng.integers(2)), max_share=1
            )
            places = [found for word in range(len(spans)) for (found,) in [attack.options(text, spans, word)] if found]
            if not places:
                continue
            taken: list[Edit] = [places[i][rng.integers(len(places[i]))] for i in rng.permutation(len(places))[:4]]
            candidate = applied(text, taken)
            assert candidate != text, (taken, attack)
            assert attack.follows(text, candidate, len(taken)), (text, candidate, attack.edits)
            needed = sum(1 for k in range(len(taken) + 1) if not attack.follows(text, candidate, k))
            assert 1 <= needed <= len(taken)
            assert levenshtein(text, candidate) <= 2 * len(taken)


# --- what it says of itself ----------------------------------------------------------------------------------------


def test_what_it_sees_and_needs_follows_from_the_feedback() -> None:
    scores, labels = CharacterEdits(), CharacterEdits(feedback="labels")
    assert (scores.access, labels.access) == ("black_box_scores", "black_box_labels")
    assert (scores.needs, labels.needs) == ({Capability.PROBABILITIES}, {Capability.LABELS})
    assert CharacterEdits.norms == frozenset()
    assert CharacterEdits.access == "black_box_scores"
    assert "first and last letters stay" in scores.constraints()
    assert "first and last letters stay" not in CharacterEdits(keep_ends=False).constraints()
    assert "at least 90% of the characters stay" in CharacterEdits(similarity=0.9).constraints()


def test_labels_alone_never_see_a_score() -> None:
    model = keyword_model(["superb"], 1, "label")
    assert attacked(CharacterEdits(feedback="labels"), model, [TEXT], [1])[2].success
    with pytest.raises(ValidationError):
        CharacterEdits(feedback="gradients")


def test_the_same_weakness_in_logits_margins_and_probabilities() -> None:
    margin = keyword_model(KEYWORDS, 2)

    def of(texts: list[str]) -> np.ndarray:
        return margin.scores(rows(texts)).numpy()

    logit = text_model(lambda texts: np.stack([0 * of(texts), of(texts)], axis=1), "logit")
    share = text_model(lambda texts: np.stack([1 / (1 + np.exp(of(texts))), 1 / (1 + np.exp(-of(texts)))], axis=1))
    for model in (margin, logit, share):
        (text,), _, confirmed = attacked(CharacterEdits(max_share=1), model, [TEXT], [1])
        assert bool(confirmed.success)
        assert len(changed(TEXT, text)) == 2


def test_errors() -> None:
    scores, plane = ThreatModel(access="black_box_scores"), audited(Linear([1.0, 1.0], 0.0), (2,))
    with pytest.raises(UserError, match="attacks on texts need texts"):
        CharacterEdits().run(plane, torch.zeros(1, 2), torch.tensor([0]), scores, streams(1))
    broken = text_model(lambda texts: [[float("nan"), 1.0]] * len(texts))
    with pytest.raises(NonFiniteOutput):
        CharacterEdits().run(
            broken, rows([TEXT]), torch.tensor([1]), ThreatModel(access="black_box_scores"), streams(1)
        )
    with pytest.raises(ValidationError):
        CharacterEdits(protect="(")
    with pytest.raises(ValidationError, match="Input should be 'swap'"):
        build({"character_edits": {"edits": ["shout"]}})
    assert build("character_edits")[1] == CharacterEdits()


def test_a_text_with_nothing_to_edit_is_left_alone() -> None:
    model = keyword_model(["superb"], 0)
    texts, found, _ = attacked(CharacterEdits(), model, ["", "!!!", "I am"], [1, 1, 1])
    assert texts == ["", "!!!", "I am"]
    assert found.queries.tolist() == [0, 0, 0] or int(found.queries.max()) <= 3
    assert encode([""], 4).tolist() == [[0, 0, 0, 0]]


def test_the_size_of_a_change_is_counted_in_characters() -> None:
    always = text_model(lambda texts: [[0.9, 0.1]] * len(texts))
    new = [TEXT.replace("superb", "suprb"), TEXT.replace("superb", "spuerb"), TEXT.replace("superb", "sup\u0435rb")]
    x, y = rows([TEXT] * 3), torch.tensor([1] * 3)
    found = confirm(always, x, y, rows(new), ThreatModel(access="black_box_scores"), CharacterEdits())
    assert found.size.tolist() == [1, 2, 1]  # whatever moves up behind a letter that is gone
    assert CharacterEdits.counted == "characters"
