"""A linear model of the sentiment of tweets, on TF-IDF of their words: the simplest that is still in use everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.text import decode_all

if TYPE_CHECKING:
    from audit.data import Batch


def train(members: Batch, *, seed: int = 0) -> Any:
    """Fit a pipeline from texts to three classes by stochastic gradient descent on the logistic loss."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(min_df=3, sublinear_tf=True)
    return make_pipeline(words, SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed)).fit(
        decode_all(members.x), members.labels
    )
