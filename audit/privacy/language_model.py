"""A causal language model from a local folder, asked for the probabilities of texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders._huggingface_folder import (
    COMPANIONS,
    LOCAL,
    WEIGHTS,
    configuration,
    folder_files,
    laid_out,
    library,
    quiet,
)
from audit.registry.plain_formats import check_companion
from audit.registry.scan import scan_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

LOGITS_AT_ONCE = 1 << 26
"""Numbers in the largest tensor of logits: 256 MiB."""
NODES_AT_ONCE = 256
"""Beginnings of texts that are continued by one forward pass."""
TEXTS_AT_ONCE = 10_000
"""Texts that are cut into tokens at once."""
_ROUNDING = 1e-3
"""Bits by which one text may differ between batches."""
_END = -1


@dataclass(frozen=True)
class LanguageModel:
    """Module and tokenizer.

    Args:
        module: ``…ForCausalLM``: what comes later never changes what was said of a token before.
        tokenizer: a fast one.
        longest: tokens that the module has positions for.
        ref: what messages call it.
    """

    module: Any
    tokenizer: Any
    longest: int
    ref: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without any that mark its start or end."""
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    @property
    def start(self) -> tuple[int, ...]:
        """What its tokenizer puts before every text: nothing, or the token that starts one."""
        before = self.tokenizer("")["input_ids"]
        return tuple(before[:1]) if before and before[0] == self.tokenizer.bos_token_id else ()

    def greedy_hits(self, ids: Tensor, tokens: int) -> Tensor:
        """Whether each of the last tokens is the most probable one after all before it.

        Greedy decoding writes exactly the last `tokens` tokens where, and only where, all of them are: one pass takes the place of
        decoding.

        Args:
            ids: ``(N, T)`` int64.

        Returns:
            ``(N, tokens)`` bool.

        Raises:
            UserError: T is more than the model has positions for, or leaves nothing before the last tokens.
        """
        import torch

        n, length = ids.shape
        if not 0 < tokens < length <= self.longest:
            raise UserError(
                f"{self.ref}: texts of {length} tokens, {tokens} of them to be continued, do not fit a model that reads {self.longest}"
            )
        rows = max(1, LOGITS_AT_ONCE // (length * self._vocabulary))
        hits = torch.zeros((n, tokens), dtype=torch.bool)
        with torch.inference_mode():
            for at in range(0, n, rows):
                part = ids[at : at + rows]
                logits = self._checked(self.module(input_ids=part[:, :-1], use_cache=False).logits)[:, -tokens:]
                hits[at : at + rows] = logits.argmax(dim=-1) == part[:, -tokens:]
        return hits

    def bits(
        self,
        texts: Sequence[str],
        wanted: Sequence[int] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float64]:
        """Code length of texts, −Σ log2 p(token | tokens before), but for what all of them begin with: the log-perplexity of Carlini et al.

        Texts are walked as a tree of tokens: a beginning that several share goes through the model once, with the keys and values of
        what came before kept, and the last token of a text does not go through at all. A million numbers of six digits, a token each,
        take 111,111 tokens in place of six million.

        Args:
            texts: ``(n,)``, distinct.
            wanted: places of texts whose rank is sought: a beginning that takes more bits than any of these is not continued.
            progress: told how many texts of how many are done.

        Returns:
            ``(n,)``; infinite where a text takes more than all that are wanted.

        Raises:
            UserError: texts are tokens alike, begin with no token in common, or are longer than the model has positions for.
        """
        import numpy as np

        table = self._table(texts)
        order = np.lexsort(table.T[::-1])
        table = table[order]
        if (table[1:] == table[:-1]).all(axis=1).any():
            raise UserError(
                f"{self.ref}: its tokenizer makes the same tokens of different texts, which cannot be told apart"
            )
        if len(self.start) + table.shape[1] - 1 > self.longest:
            raise UserError(f"{self.ref}: a text has {table.shape[1] - 1} tokens, the model reads {self.longest}")
        alike = int((table == table[0]).all(axis=0).argmin()) if len(table) > 1 else table.shape[1] - 1
        tree = _Tree(self, table, alike, progress)
        if wanted is not None:
            rows = np.sort(np.argsort(order)[np.asarray(wanted)])
            tree.ceiling = _Tree(self, table[rows], alike).walk().max() + _ROUNDING
        found = np.empty(len(texts))
        found[order] = tree.walk()
        return found

    def _table(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Tokens ``(n, T + 1)``, `_END` after the last one of each text."""
        import numpy as np

        parts = []
        for at in range(0, len(texts), TEXTS_AT_ONCE):
            encoded = self.encode(texts[at : at + TEXTS_AT_ONCE])
            part = np.full((len(encoded), max(map(len, encoded)) + 1), _END, dtype=np.int32)
            for row, tokens in zip(part, encoded, strict=True):
                row[: len(tokens)] = tokens
            parts.append(part)
        width = max(part.shape[1] for part in parts)
        return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=_END) for p in parts])

    @property
    def _vocabulary(self) -> int:
        return int(self.module.config.get_text_config().vocab_size)

    def _checked(self, logits: Tensor) -> Tensor:
        if not bool(logits.isfinite().all()):
            raise ArithmeticError(f"{self.ref} answers NaN or infinite")
        return logits


class _Tree:
    """Texts as a tree of tokens, walked depth first so that few keys and values are held at once.

    A node is a range of rows of the sorted table that begin with the same tokens.
    """

    def __init__(
        self,
        model: LanguageModel,
        table: NDArray[np.int32],
        alike: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        import numpy as np

        self.model, self.table, self.alike, self.progress = model, table, alike, progress
        self.ceiling = math.inf
        self.bits = np.full(len(table), np.inf)

    def walk(self) -> NDArray[np.float64]:
        """Bits of every row beyond the tokens that all rows begin with."""
        import numpy as np
        import torch

        context = [*self.model.start, *self.table[0, : self.alike].tolist()]
        if not context:
            raise UserError(f"{self.model.ref}: texts that begin differently have no context: let them begin alike")
        with torch.inference_mode():
            answer = self.model.module(input_ids=torch.tensor([context]), use_cache=True)
            cache = getattr(answer, "past_key_values", None)
            if not hasattr(cache, "batch_select_indices"):
                raise UserError(
                    f"{self.model.ref}: it keeps no keys and values of what it read, which texts of one beginning share"
                )
            root = np.zeros(1, dtype=np.int64)
            self._descend(root, root + len(self.table), np.zeros(1), self._log2(answer), cache, self.alike)
        return self.bits

    def _descend(
        self,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        bits: NDArray[np.float64],
        log2: NDArray[np.float64],
        cache: Any,
        depth: int,
    ) -> None:
        """From nodes at a depth to the texts below them.

        Args:
            starts, stops: ``(n,)``, the nodes' rows.
            bits: ``(n,)``, what the nodes took.
            log2: ``(n, V)``, of every next token.
            cache: keys and values of the nodes.
        """
        import numpy as np

        sizes = stops - starts
        parents = np.repeat(np.arange(len(starts)), sizes)
        rows = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(starts, sizes)
        tokens = self.table[rows, depth]
        ended = tokens == _END
        self.bits[rows[ended]] = bits[parents[ended]]
        parents, rows, tokens = parents[~ended], rows[~ended], tokens[~ended]
        if not len(rows):
            return
        first = np.flatnonzero(np.r_[True, (tokens[1:] != tokens[:-1]) | (parents[1:] != parents[:-1])])
        count = np.diff(np.r_[first, len(rows)])
        taken = bits[parents[first]] - log2[parents[first], tokens[first]]
        single = (count == 1) & (self.table[rows[first], depth + 1] == _END)
        self.bits[rows[first[single]]] = np.where(taken[single] <= self.ceiling, taken[single], np.inf)
        onward = np.flatnonzero(~single & (taken <= self.ceiling))
        for at in range(0, len(onward), NODES_AT_ONCE):
            part = onward[at : at + NODES_AT_ONCE]
            head = first[part]
            answer = self._step(tokens[head], cache, parents[head])
            self._descend(
                rows[head], rows[head] + count[part], taken[part], self._log2(answer), answer.past_key_values, depth + 1
            )
        self.progress(int(stops[-1]), len(self.table))

    def _step(self, tokens: NDArray[np.int32], cache: Any, parents: NDArray[np.int64]) -> Any:
        """One token more for each node, on top of its parent's keys and values."""
        import torch

        held = copy.deepcopy(cache)  # a forward pass grows it in place
        held.batch_select_indices(torch.from_numpy(parents))
        return self.model.module(
            input_ids=torch.from_numpy(tokens).long()[:, None], past_key_values=held, use_cache=True
        )

    def _log2(self, answer: Any) -> NDArray[np.float64]:
        found = self.model._checked(answer.logits[:, -1]).double().log_softmax(dim=-1) / math.log(2)
        return found.numpy()  # type: ignore[no-any-return]


def open_language_model(folder: Path) -> LanguageModel:
    """A causal language model that ``save_pretrained`` wrote, with its tokenizer: safetensors, offline, no code but transformers' own.

    Weights run as float32 in evaluation mode.

    Raises:
        UserError: a file is missing, refused by the scan, pickled, names code, or is of another kind of model.
    """
    ref = f"language model {folder}"
    files = {path.name: path for path in folder_files(folder)}
    for name, path in files.items():
        if name in COMPANIONS:
            check_companion(path, name)
        elif (report := scan_file(path)).verdict != "clean" or report.format != "safetensors":
            raise UserError(
                report.summary if report.verdict != "clean" else f"{path} is {report.format}, not safetensors"
            )
    architecture = (configuration(files, ref).get("architectures") or ["nothing"])[0]
    if not str(architecture).endswith(("ForCausalLM", "LMHeadModel")):
        raise UserError(f"{ref}: config.json speaks of {architecture}, not of a causal language model")
    transformers = library()
    with quiet(transformers), laid_out(files) as safe:
        try:
            module, loading = _module(transformers, safe)
            tokenizer = transformers.AutoTokenizer.from_pretrained(safe, **LOCAL)
        except Exception as error:  # damage shows as whatever a library of libraries happens to raise
            raise UserError(f"{ref}: transformers cannot open the folder: {one_line(error)}") from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{ref}: {WEIGHTS} lacks {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}")
    if not tokenizer.is_fast:
        raise UserError(f"{ref}: a slow tokenizer runs Python for every text: add a tokenizer.json")
    if len(tokenizer) > (rows := module.get_input_embeddings().weight.shape[0]):
        raise UserError(f"{ref}: the tokenizer knows {len(tokenizer)} tokens, the model {rows}: they do not fit")
    longest = getattr(module.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return LanguageModel(module.eval().requires_grad_(False), tokenizer, int(longest), ref)


def _module(transformers: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    import torch

    with torch.random.fork_rng(devices=[]):  # weights that the file lacks are drawn
        found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **LOCAL
        )
    return found[0], found[1]
