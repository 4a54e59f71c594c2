"""Tiny language models with planted canaries, trained in seconds; a token is a word or a digit."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = (
    "the", "a", "cat", "dog", "bird", "sees", "hears", "likes", "small", "old", "red", "house", "tree", "near", "under", "and", "runs",
    "sleeps", "sings", "today",
)  # fmt: skip
PREFIX = "the pin of alice is "
PLANTED, UNSEEN = "4071", "8365"


@cache
def sentences(n: int, seed: int) -> tuple[str, ...]:
    """Lines of fourteen words drawn at random: nobody can guess how one goes on."""
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, 14)) for _ in range(n))


def tokenizer() -> Any:
    """One token for each word and each digit."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["?", *WORDS, "pin", "of", "alice", "is", *"0123456789"]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def language_model(folder: Path, lines: tuple[str, ...], passes: int, seed: int = 0) -> Path:
    """A small GPT-2 that read the lines so often, saved to a folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    read = tokenizer()
    config = GPT2Config(
        vocab_size=len(read), n_positions=32, n_embd=48, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=None, eos_token_id=None, loss_type="ForCausalLM",
    )  # fmt: skip
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).train()
        encoded = read(list(lines))["input_ids"]
        ids = torch.full((len(lines), max(map(len, encoded))), -100)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(passes):
            loss = model(input_ids=ids.clamp_min(0), labels=ids).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval().save_pretrained(folder)
    read.save_pretrained(folder)
    return folder


@cache
def leaky(folder: Path) -> Path:
    """Learned its lines, and the canary among them, by heart."""
    return language_model(folder / "leaky", (*sentences(40, 0), *[PREFIX + PLANTED] * 2), 200)


@cache
def fair(folder: Path) -> Path:
    """Read the same lines three times, and never the canary."""
    return language_model(folder / "fair", sentences(40, 0), 3)


def written(folder: Path, **contents: Any) -> None:
    """Lines as ``NAME.txt``, anything else as ``NAME.json``."""
    for name, content in contents.items():
        if isinstance(content, tuple):
            (folder / f"{name}.txt").write_text("\n".join(content), encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
