"""The tree of tokens against texts one by one; greedy continuations against generation; which folders open."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from language_models import PREFIX, WORDS, fair, sentences

from audit.parameters import UserError
from audit.privacy import language_model
from audit.privacy.language_model import LanguageModel, open_language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fair(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return open_language_model(folder)


def one_by_one(model: LanguageModel, texts: list[str], alike: int) -> list[float]:
    """Bits of each text after its first tokens, by a pass of its own."""
    found = []
    for tokens in model.encode(texts):
        ids = torch.tensor([tokens])
        logs = model.module(input_ids=ids).logits.double().log_softmax(dim=-1)
        taken = logs[0, :-1].gather(1, ids[0, 1:, None])[alike - 1 :]
        found.append(-float(taken.sum()) / math.log(2))
    return found


@pytest.mark.parametrize("at_once", [3, 256])
def test_the_tree_gives_each_text_its_own_bits(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(language_model, "NODES_AT_ONCE", at_once)
    # texts that end inside others, that go on alone, and that fork late
    texts = [
        PREFIX + "1",
        PREFIX + "12",
        PREFIX + "123 cat",
        *(PREFIX + f"4{a}{b}" for a, b in itertools.product("05", "129")),
    ]
    assert model.bits(texts) == pytest.approx(one_by_one(model, texts, 5), abs=1e-3)


def test_what_takes_more_than_is_wanted_is_given_up(model: LanguageModel) -> None:
    texts = [PREFIX + f"{i:03d}" for i in range(1000)]
    full = model.bits(texts)
    wanted = int(np.argsort(full)[20])
    pruned = model.bits(texts, wanted=[wanted])
    kept = np.isfinite(pruned)
    assert kept.sum() == 21
    assert pruned[kept] == pytest.approx(full[kept], abs=1e-3)


def test_shared_beginnings_go_through_once(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    forward = type(model.module).forward

    def counted(self: object, input_ids: torch.Tensor, **rest: object) -> object:
        nonlocal seen
        seen += input_ids.numel()
        answer = forward(self, input_ids=input_ids, **rest)
        answer.logits = 30 * answer.logits  # as of a model that is sure of what it says
        return answer

    monkeypatch.setattr(type(model.module), "forward", counted)
    bits = model.bits([PREFIX + f"{i:03d}" for i in range(1000)])
    assert seen == 5 + 10 + 100
    seen = 0
    model.bits([PREFIX + f"{i:03d}" for i in range(1000)], wanted=[int(bits.argmin())])
    assert seen < 40  # beginnings that take more bits than the first of all are not continued


def test_a_model_without_a_cache_is_refused(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(model.module).forward
    monkeypatch.setattr(
        type(model.module), "forward", lambda self, **given: forward(self, **{**given, "use_cache": False})
    )
    with pytest.raises(UserError, match="keeps no keys and values"):
        model.bits([PREFIX + "1", PREFIX + "2"])


def test_greedy_hits_are_what_generation_writes(model: LanguageModel) -> None:
    ids = torch.tensor(model.encode(sentences(20, 0)))
    written = model.module.generate(
        ids[:, :6], max_new_tokens=3, do_sample=False, attention_mask=torch.ones_like(ids[:, :6])
    )
    own = torch.cat([written, ids[:, :3]], dim=1)  # what it writes itself, and words that it does not
    hits = model.greedy_hits(own[:, :9], 3)
    assert hits.all()
    changed = own[:, :9].clone()
    changed[:, 7] = (changed[:, 7] + 1) % len(WORDS)
    assert not model.greedy_hits(changed, 3)[:, 1].any()
    with pytest.raises(UserError, match="do not fit"):
        model.greedy_hits(torch.zeros((1, 40), dtype=torch.int64), 3)


def test_texts_that_cannot_be_told_apart(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="same tokens"):
        model.bits([PREFIX + "zebra", PREFIX + "gnu"])
    with pytest.raises(UserError, match="begin differently"):
        model.bits(["cat 1", "dog 2"])
    with pytest.raises(UserError, match="reads 32"):
        model.bits(["cat " * 40 + "1", "cat " * 40 + "2"])


def test_folders_that_do_not_open(folder: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    code = copied("code")
    config = json.loads((code / "config.json").read_text())
    (code / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    pickled = copied("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    damaged = copied("damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-8])
    classifier = copied("classifier")
    (classifier / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2ForSequenceClassification"]}))
    for where, wrong in ((code, "auto_map"), (pickled, "pickled"), (damaged, "refused"), (classifier, "causal")):
        with pytest.raises(UserError, match=wrong):
            open_language_model(where)
    with pytest.raises(UserError, match="no model folder"):
        open_language_model(tmp_path / "nothing")
