"""A text classifier of Hugging Face's transformers, token by token: what `audit.model.TokenModel` asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.model import Tokens
from audit.parameters import NotApplicable
from audit.text import decode_all

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TokenClassifier:
    """Tokenizer and module.

    Args:
        module: ``…ForSequenceClassification``, with eager attention.
        tokenizer: one that knows which characters a token stands for.
        longest: tokens of a row at most; what comes after them is not read.
    """

    module: nn.Module
    tokenizer: Any
    longest: int

    @property
    def neutral(self) -> int:
        """See `TokenModel`."""
        known = (self.tokenizer.mask_token_id, self.tokenizer.unk_token_id, self.tokenizer.pad_token_id)
        return next(int(token) for token in known if token is not None)

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, L)`` code points → ``(N, C)`` logits."""
        return self._scores(self.tokens(x))

    def tokens(self, x: Tensor) -> Tokens:
        """See `TokenModel`. A row without any token is read as one that stands for nothing."""
        import torch

        found = self.tokenizer(
            decode_all(x),
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_attention_mask=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        names = ("input_ids", "attention_mask", "special_tokens_mask")
        ids, mask, special = (torch.tensor(found[name], dtype=torch.int64, device=x.device) for name in names)
        places = torch.tensor(found["offset_mapping"], dtype=torch.int64, device=x.device).reshape(*ids.shape, 2)
        if not ids.shape[1]:
            ids, mask, special = (part.new_zeros((len(x), 1)) for part in (ids, mask, special))
            places = places.new_zeros((len(x), 1, 2))
        start, stop = places.unbind(dim=2)
        read = mask.bool()
        empty = ~read.any(dim=1)
        ids[empty, 0] = self.neutral
        read[empty, 0] = True
        apart = (special.bool() & read) | empty[:, None] & read
        start, stop = (torch.where(read & ~apart, part, 0) for part in (start, stop))
        return Tokens(ids, read, apart, start, stop)

    def embed(self, ids: Tensor) -> Tensor:
        """See `TokenModel`."""
        embeddings: Tensor = self._table(ids)
        return embeddings

    def from_embeddings(self, embeddings: Tensor, tokens: Tokens) -> Tensor:
        """See `TokenModel`.

        The word embeddings are put in where the module looks its tokens up, as captum does it: positions, padding and the place
        a decoder answers from follow from the tokens, as they do without.
        """
        with self._replaced(embeddings):
            return self._scores(tokens)

    def attentions(self, tokens: Tokens) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `TokenModel`.

        Raises:
            NotApplicable: the architecture has no attention from each token to each.
        """
        import torch

        with torch.enable_grad():
            embeddings = self.embed(tokens.ids).detach().requires_grad_()  # else nothing depends on anything
            with self._replaced(embeddings):
                answer = self._answer(tokens, output_attentions=True)
        weights = getattr(answer, "attentions", None) or ()
        square = tokens.ids.shape[1]
        if not weights or any(part is None or part.shape[-2:] != (square, square) for part in weights):
            raise NotApplicable(f"a {type(self.module).__name__} gives no attention from each token to each")
        return answer.logits, tuple(weights)

    def with_module(self, module: nn.Module) -> TokenClassifier:
        """See `TokenModel`."""
        return dataclasses.replace(self, module=module)

    @property
    def _table(self) -> Any:
        """The module that looks tokens up."""
        return self.module.get_input_embeddings()  # type: ignore[operator]

    def _answer(self, tokens: Tokens, **options: Any) -> Any:
        return self.module(input_ids=tokens.ids, attention_mask=tokens.mask.long(), **options)

    def _scores(self, tokens: Tokens) -> Tensor:
        scores: Tensor = self._answer(tokens).logits
        return scores

    @contextmanager
    def _replaced(self, embeddings: Tensor) -> Iterator[None]:
        """Other embeddings in place of those that are looked up, once.

        Raises:
            NotApplicable: the module does not look its tokens up once, as an encoder and decoder in one does not.
        """
        calls = 0

        def put_in(*_: Any) -> Tensor:
            nonlocal calls
            calls += 1
            return embeddings

        hook = self._table.register_forward_hook(put_in)
        try:
            yield
        finally:
            hook.remove()
        if calls != 1:
            raise NotApplicable(f"a {type(self.module).__name__} looks its tokens up {calls} times, not once")
