"""Text classifiers in folders: equal to transformers' own answers, opened without code or network, refused in one line."""

from __future__ import annotations

import copy
import json
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from tweets import (
    ARCHITECTURES,
    LENGTH,
    save,
    tokenizer,
    trained,
    trained_folder,
    transformers,
    tweet_data,
    tweets,
    untrained,
)

from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import NotApplicable, UserError
from audit.registry.opening import card_digest
from audit.registry.store import Registry
from audit.text import encode

TEXTS = (*tweets()[0][:5], "", "   ", "naïve café 👩‍🚀 日本語", "long " * 80)


def rows(texts: Any = TEXTS, length: int = 512) -> Tensor:
    return torch.from_numpy(encode(texts, length))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {name: save(untrained(name), tokenizer(name), root / name) for name in ARCHITECTURES}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder to spoil."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "bert"))


def opened(registry: Registry, folder: Path, **declared: Any) -> AuditedModel:
    registry.add("m", folder, **declared)
    return registry.open("m")


def refused(registry: Registry, folder: Path, **declared: Any) -> str:
    with pytest.raises(UserError) as error:
        registry.add("m", folder, **declared)
    assert "\n" not in str(error.value)
    assert not registry.list()
    assert not list((registry.home / "blobs").rglob("*.json"))  # no copy is left behind
    return str(error.value)


def settings(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- what is opened ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_transformers(architecture: str, folders: dict[str, Path], registry: Registry) -> None:
    model = opened(registry, folders[architecture])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = transformers.AutoModelForSequenceClassification.from_pretrained(folders[architecture])
        words = transformers.AutoTokenizer.from_pretrained(folders[architecture], model_max_length=64)
    expected = []
    for text in TEXTS:
        fed = words(text, truncation=True, return_tensors="pt")
        if not fed[
            "input_ids"
        ].numel():  # nothing to read, which transformers cannot: one token that stands for nothing
            fed = {"input_ids": torch.tensor([[words.mask_token_id or words.unk_token_id or 2]])}
        with torch.no_grad():
            expected.append(module(input_ids=fed["input_ids"].long()).logits)
    torch.testing.assert_close(model.scores(rows()), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_what_is_inferred(registry: Registry) -> None:
    card = registry.add("m", trained_folder())
    assert (card.loader, card.task, card.output, card.classes) == (
        "huggingface", "classification", "logit", ("calm", "planted"),
    )  # fmt: skip
    assert (card.spec.kind, card.spec.shape) == ("text", (512,))
    assert set(card.files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    model = registry.open("m")
    assert model.capabilities == {
        Capability.LOGITS, Capability.PROBABILITIES, Capability.LABELS, Capability.LAYERS, Capability.EMBEDDINGS,
    }  # fmt: skip
    assert set(card.capabilities) == model.capabilities
    data = tweet_data()
    assert float((trained().correct(data.test)).float().mean()) > 0.9


def test_a_shape_says_how_much_room_there_is(registry: Registry) -> None:
    spec = InputSpec(fields=(Field(name="tweet", kind="text", shape=(280,)),))
    model = opened(registry, trained_folder(), spec=spec)
    assert model.spec == spec
    assert model.scores(rows(TEXTS[:1], 280)).shape == (1, 2)


def test_one_output_is_a_regression(registry: Registry, tmp_path: Path) -> None:
    module = untrained("bert", labels=("score",), problem_type="regression")
    model = opened(registry, save(module, tokenizer("bert"), tmp_path / "scores"))
    assert (model.task, model.output, model.classes) == ("regression", "value", ())
    assert model.predict(rows()).shape == (len(TEXTS),)


def test_a_vocabulary_alone_makes_a_tokenizer(folder: Path, registry: Registry) -> None:
    expected = opened(registry, folder).scores(rows(TEXTS[:5]))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    settings(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    torch.testing.assert_close(opened(registry, folder).scores(rows(TEXTS[:5])), expected)


def test_half_precision_runs_in_float32(registry: Registry, tmp_path: Path) -> None:
    model = opened(registry, save(untrained("bert").half(), tokenizer("bert"), tmp_path / "half"))
    assert model.scores(rows()).dtype == torch.float32


def test_rows_per_pass(registry: Registry) -> None:
    for size in (2, 64):
        model = opened(registry, trained_folder(), parameters={"micro_batch": size})
        passes: list[int] = []
        assert model.module is not None
        model.module.register_forward_hook(lambda _, args, out, seen=passes: seen.append(len(out.logits)))
        model.scores(rows())
        assert max(passes) == min(size, len(TEXTS))


def test_the_command_line_adds_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from audit.cli import app

    home = ["--home", str(tmp_path / "home")]
    found = CliRunner().invoke(app, ["model", "add", "tweets", str(trained_folder()), "--shape", "200", *home])
    assert found.exit_code == 0, found.output
    assert "added tweets@1: huggingface, 2 classes, answers logit; embeddings, " in found.output
    assert Registry(tmp_path / "home").get("tweets").spec.shape == (200,)


# --- token by token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_and_attention_are_what_the_scores_come_from(
    architecture: str, folders: dict[str, Path], registry: Registry
) -> None:
    model = opened(registry, folders[architecture])
    inside, scores = model.text, model.scores(rows())
    assert inside is not None
    tokens = inside.tokens(rows())
    embeddings = inside.embed(tokens.ids)
    torch.testing.assert_close(inside.from_embeddings(embeddings, tokens), scores, rtol=1e-5, atol=1e-6)
    with torch.enable_grad():
        moved = embeddings.clone().requires_grad_()
        (slope,) = torch.autograd.grad(inside.from_embeddings(moved, tokens).sum(), moved)
    assert bool((slope.abs().sum(dim=2) > 0)[tokens.mask].any())
    assert not bool(slope[~tokens.mask].any())  # padding is never read
    answer, attention = inside.attentions(tokens)
    torch.testing.assert_close(answer, scores, rtol=1e-5, atol=1e-6)
    assert len(attention) == 2
    slopes = torch.autograd.grad(answer.sum(), attention)
    for weights, steep in zip(attention, slopes, strict=True):
        assert weights.shape == (len(TEXTS), 2, *[tokens.ids.shape[1]] * 2)
        torch.testing.assert_close(
            weights.sum(dim=-1)[tokens.mask[:, None].expand(-1, 2, -1)].mean(), torch.tensor(1.0)
        )
        assert bool(steep.any())
    assert model.module is not None
    assert not any(
        part._forward_hooks for part in model.module.modules() if part is model.module.get_input_embeddings()
    )


def words_of(inside: Any, ids: torch.Tensor) -> list[str]:
    """The tokens as a reader knows them."""
    return [str(inside.tokenizer.decode([token])).strip() for token in ids.tolist()]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
def test_tokens_know_their_characters(architecture: str, folders: dict[str, Path], registry: Registry) -> None:
    inside = opened(registry, folders[architecture]).text
    assert inside is not None
    tokens = inside.tokens(rows())
    for row, text in enumerate(TEXTS):
        own = tokens.mask[row] & ~tokens.special[row]
        spans = list(zip(tokens.start[row][own].tolist(), tokens.stop[row][own].tolist(), strict=True))
        words = words_of(inside, tokens.ids[row][own])
        if text.isascii():
            assert [text[a:b].strip().lower() for a, b in spans] == [word.removeprefix("##").lower() for word in words]
        assert all(0 <= a <= b <= len(text) for a, b in spans)
    assert bool((tokens.start == tokens.stop)[tokens.special | ~tokens.mask].all())
    assert int(tokens.mask.sum(dim=1).max()) == 64  # the long one is cut


def test_the_neutral_token(folders: dict[str, Path], registry: Registry) -> None:
    for architecture, word in (("bert", "[MASK]"), ("roberta", "<mask>"), ("gpt2", "</s>")):
        inside = opened(registry, folders[architecture]).text
        assert inside is not None
        assert words_of(inside, torch.tensor([inside.neutral])) == [word]


def test_another_module_takes_the_place_of_all_of_it() -> None:
    model, x = trained(), rows(TEXTS[:4], LENGTH)
    other = copy.deepcopy(model.module)
    assert other is not None
    torch.nn.init.normal_(other.get_input_embeddings().weight, generator=torch.Generator().manual_seed(0))
    changed, before = model.with_module(other), model.scores(x)
    assert changed.text is not None
    assert model.text is not None
    tokens = model.text.tokens(x)
    assert not torch.allclose(changed.scores(x), before)
    torch.testing.assert_close(changed.text.from_embeddings(changed.text.embed(tokens.ids), tokens), changed.scores(x))
    torch.testing.assert_close(model.text.from_embeddings(model.text.embed(tokens.ids), tokens), before)


def test_a_module_that_looks_its_tokens_up_twice_is_told() -> None:
    inside, x = trained().text, rows(TEXTS[:2], LENGTH)
    assert inside is not None

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(800, 4)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.table

        def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
            from types import SimpleNamespace

            return SimpleNamespace(logits=(self.table(input_ids) + self.table(input_ids)).sum(dim=1))

    twice, tokens = inside.with_module(Twice()), inside.tokens(x)
    with pytest.raises(NotApplicable, match="looks its tokens up 2 times"):
        twice.from_embeddings(twice.embed(tokens.ids), tokens)


# --- what is not opened ------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_the_network_and_no_code_of_the_folder_runs(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    marker = folder / "ran"
    for name in ("modeling_bert.py", "tokenization_bert.py", "__init__.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    card = registry.add("m", folder)
    registry.open("m").scores(rows())
    assert not marker.exists()
    assert set(card.files) <= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_is_named_is_refused(file: str, folder: Path, registry: Registry) -> None:
    settings(folder, file, auto_map={"AutoModelForSequenceClassification": "modeling.Own", "AutoTokenizer": "own.Own"})
    assert f"{file} names Python code (auto_map)" in refused(registry, folder)


def _only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _in_parts(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def _cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def _emptied(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"") and None


def _parts_of_a_text(folder: Path) -> None:
    words = json.loads((folder / "tokenizer.json").read_text())
    words["post_processor"]["single"][1]["Sequence"]["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(words))
    settings(folder, "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def _without_its_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {n: w for n, w in load_file(folder / "model.safetensors").items() if not n.startswith("classifier")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _not_a_number(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "config.json").unlink(), "is no model folder: it holds no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors: write it with model.save_pretrained()"),
        (_only_pickled, "pickled weights can run code and are not opened; save it anew with save_pretrained()"),
        (_in_parts, "its weights are in several files"),
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer: write it there with tokenizer.save_pretrained()"),
        *[(_emptied(n), f"{n} is refused: it is empty") for n in ("config.json", "model.safetensors", "tokenizer.json")],
        *[(_cut(n), f"{n} is refused: it is no well-formed JSON") for n in ("config.json", "tokenizer.json")],
        (_cut("model.safetensors"), "model.safetensors is refused: it holds"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json holds a list, not settings by name"),
        (lambda f: (f / "merges.txt").write_bytes(b"\xff\xfe"), "merges.txt is refused: it is no text in UTF-8"),
        (lambda f: (f / "merges.txt").write_bytes(b"a\0b"), "merges.txt is refused: it is no text: it holds a zero byte"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "transformers cannot open the folder"),
        (lambda f: settings(f, architectures=["BertForMaskedLM"]), "speaks of BertForMaskedLM"),
        (lambda f: settings(f, problem_type="multi_label_classification"), "several labels at once"),
        (lambda f: settings(f, quantization_config={"quant_method": "gptq"}), "quantised weights are not opened"),
        (lambda f: settings(f, id2label={"1": "a", "2": "b"}), "does not number its classes from 0"),
        (lambda f: settings(f, model_type="nobert"), "transformers cannot open the folder"),
        (lambda f: settings(f, hidden_size=64), "transformers cannot open the folder"),
        (lambda f: settings(f, vocab_size=700), "transformers cannot open the folder"),
        (_without_its_head, "lacks classifier.bias, classifier.weight: it holds no trained classifier"),
        (_not_a_number, "answers NaN or infinite"),
        (_parts_of_a_text, "numbers the parts of a text"),
    ],
)  # fmt: skip
def test_what_is_refused(spoil: Callable[[Path], Any], said: str, folder: Path, registry: Registry) -> None:
    spoil(folder)
    assert said in refused(registry, folder)


def test_declarations_that_do_not_fit(folder: Path, registry: Registry) -> None:
    assert "does not give output 'probability'; it gives logit" in refused(registry, folder, output="probability")
    assert "tells 2 classes apart, 3 were declared" in refused(registry, folder, classes=["a", "b", "c"])
    image = InputSpec(fields=(Field(name="x", kind="image", shape=(1, 8, 8)),))
    assert "reads texts, the input spec says image" in refused(registry, folder, spec=image)
    assert "loader 'onnx' opens a file" in refused(registry, folder, loader="onnx")
    weights = folder / "model.safetensors"
    assert "opens a folder: give the one that model.safetensors is in" in refused(
        registry, weights, loader="huggingface"
    )
    settings(folder, num_hidden_layers=2)
    words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), unk_token="[UNK]")
    words.add_tokens([f"more{i}" for i in range(200)])
    words.save_pretrained(folder)
    assert "the tokenizer knows 1000 tokens, the model 800" in refused(registry, folder)


def test_files_may_not_change_places_or_content(folder: Path, registry: Registry) -> None:
    card = registry.add("m", folder)
    names = list(card.files)
    swapped = {**card.files, names[0]: card.files[names[1]], names[1]: card.files[names[0]]}
    assert card_digest(card.model_copy(update={"files": swapped})) != card.digest
    blob = registry.blobs.path(card.files["tokenizer.json"])
    blob.chmod(0o644)
    blob.write_text("{}")
    with pytest.raises(UserError, match=r"the file tokenizer\.json of m@1 was changed after it was registered"):
        registry.open("m")
