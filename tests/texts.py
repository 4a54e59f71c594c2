"""Text models with known weak spots, and short reviews that every test can afford."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import Tensor

from audit.attacks import Attack, Candidates, Confirmed, confirm
from audit.finding import ThreatModel
from audit.model import AuditedModel, Field, InputSpec, OutputSpace, implied
from audit.rng import ExampleRng
from audit.text import decode_all, encode, skeleton

LENGTH = 160
PRAISE = ("superb", "lovely", "excellent", "pleasant", "charming", "delightful")
FILLER = (  # noqa: SIM905
    "the film was and plot acting with music scene story very quite somewhat actor camera light sound ending"
).split()


def text_model(
    answer: Callable[[list[str]], Any], output: OutputSpace = "probability", length: int = LENGTH
) -> AuditedModel:
    """A function from texts to scores of two classes as an audited model."""
    return AuditedModel(
        name="texts",
        digest="texts",
        task="classification",
        classes=("bad", "good"),
        spec=InputSpec(fields=(Field(name="said", kind="text", shape=(length,)),)),
        output=output,
        capabilities=implied(output, gradients=False, layers=False),
        forward=lambda x: torch.as_tensor(np.asarray(answer(decode_all(x)), dtype=np.float64)),
    )


@cache
def reviews(n: int = 200) -> tuple[tuple[str, ...], np.ndarray]:
    """Texts and labels: fillers, of class 1 with two words of praise and an exclamation mark at the end, else a full stop."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    texts = []
    for label in labels:
        said = [*rng.choice(FILLER, 12), *rng.choice(PRAISE if label else FILLER, 2)]
        rng.shuffle(said)
        texts.append(" ".join(said).capitalize() + "!"[: int(label)] + "."[int(label) :])
    return tuple(texts), labels


@cache
def word_model(normalised: bool = False) -> AuditedModel:
    """Logistic regression on TF-IDF of words; with look-alikes and invisible characters normalised first, where asked."""
    texts, labels = reviews()
    vectoriser = TfidfVectorizer(preprocessor=lambda text: skeleton(text).lower()) if normalised else TfidfVectorizer()
    return text_model(make_pipeline(vectoriser, LogisticRegression(C=10)).fit(texts, labels).predict_proba)


@cache
def mark_model() -> AuditedModel:
    """Logistic regression on the numbers of exclamation marks and full stops: what no spelling changes."""
    texts, labels = reviews()
    counts = FunctionTransformer(lambda texts: np.array([[text.count("!"), text.count(".")] for text in texts]))
    return text_model(make_pipeline(counts, LogisticRegression()).fit(texts, labels).predict_proba)


def keyword_model(keywords: Sequence[str], needed: int, output: OutputSpace = "margin") -> AuditedModel:
    """Class 1 where at least `needed` of the keywords stand in the text as words: a margin, or the label alone."""

    def margin(texts: list[str]) -> list[float]:
        return [sum(word in text.split() for word in keywords) - needed + 0.5 for text in texts]

    def answer(texts: list[str]) -> Any:
        return margin(texts) if output == "margin" else [float(m > 0) for m in margin(texts)]

    return text_model(answer, output)


def rows(texts: Sequence[str], length: int = LENGTH) -> Tensor:
    return torch.from_numpy(encode(texts, length))


def streams(n: int, seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "test", [f"row-{i}" for i in range(n)], "attack")


def attacked(
    attack: Attack,
    model: AuditedModel,
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    queries: int | None = None,
    seed: int = 0,
) -> tuple[list[str], Candidates, Confirmed]:
    """What an attack makes of texts that the model gets right, with the engine's verdict; nothing may be refused."""
    x, y = rows(texts, *model.spec.shape), torch.as_tensor(labels)
    assert torch.equal(model.predict(x), y)
    threat = ThreatModel(access=attack.access, queries=queries)
    before = model.rows_forward
    found = attack.run(model, x, y, threat, streams(len(x), seed))
    assert int(found.queries.sum()) == model.rows_forward - before
    confirmed = confirm(model, x, y, found.x, threat, attack)
    assert not confirmed.refused.any()
    assert torch.equal(confirmed.success, (found.x != x).any(dim=1))  # what was not found is the input, bit for bit
    return decode_all(found.x), found, confirmed


def praised(model: AuditedModel, n: int = 30) -> tuple[list[str], list[int]]:
    """Reviews of class 1 that the model gets right."""
    texts, labels = reviews()
    right = (model.predict(rows(texts)) == torch.as_tensor(labels)) & (torch.as_tensor(labels) == 1)
    return [text for text, ok in zip(texts, right.tolist(), strict=True) if ok][:n], [1] * min(n, int(right.sum()))
