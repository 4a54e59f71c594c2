"""How the small models of the families are trained: quickly, and to the same weights every time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from audit.demo import _families_nets as nets
from audit.demo.digits import one_thread

if TYPE_CHECKING:
    from audit.data import Batch


def fit(
    make: Callable[[], nn.Module],
    members: Batch,
    *,
    epochs: int,
    lr: float,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    batch: int = 64,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Make a net and train it on the members: AdamW, the learning rate rising and falling once.

    Args:
        lr: the highest learning rate.
        loss: of the net's answers and the labels.
    """
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        net = make()
        x, y = torch.from_numpy(members.x).float(), torch.from_numpy(members.labels)
        y = y.float() if y.is_floating_point() else y
        optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=epochs * -(-len(x) // batch))
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), batch):
                value = loss(net(x[rows]), y[rows])
                optimiser.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return net.eval()


def logistic(members: Batch) -> nn.Module:
    """Multinomial logistic regression on pixels."""
    return fit(nets.Logistic, members, epochs=10, lr=2e-2, weight_decay=0.1)


def mlp(members: Batch) -> nn.Module:
    """A multilayer perceptron on pixels."""
    return fit(nets.Mlp, members, epochs=8, lr=4e-3, weight_decay=0.05)


def cnn(members: Batch) -> nn.Module:
    """A convolutional net."""
    return fit(nets.Cnn, members, epochs=5, lr=1e-2)


def lstm(members: Batch) -> nn.Module:
    """A recurrent net that reads an image row by row."""
    return fit(nets.Lstm, members, epochs=8, lr=1e-2)


def transformer(members: Batch) -> nn.Module:
    """A transformer encoder on patches."""
    return fit(nets.Transformer, members, epochs=8, lr=5e-3, weight_decay=0.05)


def series_cnn(members: Batch) -> nn.Module:
    """A convolutional net over time."""
    return fit(nets.SeriesCnn, members, epochs=40, lr=1e-2, batch=16)


def recommender(members: Batch, users: int, items: int, groups: int) -> nn.Module:
    """Biased matrix factorisation with side features, squared error, ridge on the numbers of users and items."""

    def make() -> nn.Module:
        net = nets.Recommender(users, items, groups)
        with torch.no_grad():
            net.mean.fill_(float(members.labels.mean()))
        return net

    return fit(make, members, epochs=4, lr=2e-2, loss=nn.functional.mse_loss, batch=1024, weight_decay=0.3)


def text_classifier(members: Batch, classes: tuple[str, ...], *, rows: int = 6000, epochs: int = 2) -> tuple[Any, Any]:
    """A BERT of two layers and its tokenizer, both from nothing, on the first `rows` members.

    Source: Devlin et al. 2019, arXiv:1810.04805.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from transformers import BertConfig, BertForSequenceClassification

    from audit.text import decode_all

    texts = decode_all(members.x[:rows])
    tokenizer = word_pieces(texts)
    encoded = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    labels = torch.from_numpy(members.labels[:rows])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, attn_implementation="eager",
        pad_token_id=tokenizer.pad_token_id, id2label=dict(enumerate(classes)), label2id={c: i for i, c in enumerate(classes)},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=2e-3, total_steps=epochs * -(-len(labels) // 64)
        )
        lengths = encoded["attention_mask"].sum(dim=1)
        for _ in range(epochs):
            order = torch.randperm(len(labels))
            batches = torch.split(order[lengths[order].argsort(stable=True)], 64)  # of one length: little padding
            for some in (batches[i] for i in torch.randperm(len(batches)).tolist()):
                longest = int(lengths[some].max())
                inputs = {name: part[some, :longest] for name, part in encoded.items()}
                loss = nn.functional.cross_entropy(model(**inputs).logits, labels[some])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return model.eval(), tokenizer


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers; they come back as they were."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary(texts: Sequence[str], size: int, fewest: int = 3) -> dict[str, int]:
    """Word pieces and their numbers: special tokens, every letter, then the commonest words, beginnings and endings.

    The same from the same texts, on any machine: the trainers of `tokenizers` break ties by a hash that changes with every process,
    and a model trained on other numbers is another model.

    Args:
        size: pieces at most.
        fewest: times that a piece must occur.
    """
    from tokenizers import normalizers, pre_tokenizers

    clean, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(clean.normalize_str(text)))
    pieces = Counter(words)
    for word, times in words.items():
        for length in range(2, min(5, len(word))):
            pieces[word[:length]] += times
            pieces[f"##{word[-length:]}"] += times
    letters = sorted({letter for word in words for letter in word})
    base = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    common = sorted(
        (p for p, times in pieces.items() if times >= fewest and p not in base), key=lambda p: (-pieces[p], p)
    )
    return {piece: number for number, piece in enumerate((base + common)[:size])}


def word_pieces(texts: Sequence[str], size: int = 4000) -> Any:
    """A WordPiece tokenizer made from texts, of at most 64 tokens a text.

    Source: Wu et al. 2016, arXiv:1609.08144.
    """
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    made = BertWordPieceTokenizer(vocab=vocabulary(texts, size))
    return BertTokenizerFast(tokenizer_object=made._tokenizer, model_max_length=64)


def linear(members: Batch) -> Any:
    """Least squares with a little ridge."""
    from sklearn.linear_model import Ridge

    return Ridge(alpha=0.01).fit(members.x, members.labels)


def forest(members: Batch) -> Any:
    """A random forest."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=60, max_depth=6, random_state=0, n_jobs=1).fit(members.x, members.labels)


def xgboost(members: Batch) -> Any:
    """Gradient boosting by XGBoost."""
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=60, max_depth=3, learning_rate=0.1, random_state=0, n_jobs=1)
    return model.fit(members.x, members.labels)


def lightgbm(members: Batch) -> Any:
    """Gradient boosting by LightGBM."""
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(
        n_estimators=60, max_depth=3, num_leaves=7, random_state=0, n_jobs=1, deterministic=True, verbosity=-1
    )
    return model.fit(members.x, members.labels)
