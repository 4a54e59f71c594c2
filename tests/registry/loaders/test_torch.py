"""State dicts, exported programs and TorchScript: equal to the eager model, answers and gradients."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from toys import digits, trained_cnn

from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import NotApplicable, UserError
from audit.registry.store import Registry
from audit.text import encode

DIGITS = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0, 16), units="ink"),))
FOUR = InputSpec(fields=(Field(name="x", kind="number", shape=(4,), bounds=(-2, 2)),))
TWO = InputSpec(fields=(Field(name="x", kind="number", shape=(2,), bounds=(-2, 2)),))
CNN = {"factory": "assay_zoo.models:cnn"}
MLP = {"factory": "assay_zoo.models:mlp"}
SCORED = {Capability.LOGITS, Capability.PROBABILITIES, Capability.LABELS}


@pytest.fixture(autouse=True)
def _zoo(zoo: Path) -> None:
    """Every test finds the package."""


def images(n: int = 40) -> Tensor:
    return torch.from_numpy(digits().test.x[:n])


def exported(module: nn.Module, example: Tensor, path: Path, *, dynamic: Any = True) -> Path:
    shapes = ({0: torch.export.Dim("batch") if dynamic is True else dynamic},) if dynamic else None
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes), path)
    return path


def traced(module: nn.Module, example: Tensor, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, example).save(str(path))
    return path


def trusting(registry: Registry, path: Path) -> Path:
    from audit.registry.scan import digest_file

    registry.trust.allow_digest(digest_file(path), "tester", "made here")
    return path


def gradient(forward: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((forward(x) * torch.arange(10.0)).sum(), x)
    return found


# --- state dicts ---


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_load_into_the_factorys_module(suffix: str, registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / f"cnn.{suffix}"
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(trained_cnn().state_dict(), path)
    card = registry.add("cnn", path, parameters=CNN, classes=10, spec=DIGITS)
    assert (card.loader, card.output, card.task) == ("state_dict", "logit", "classification")
    model = registry.open("cnn")
    assert torch.equal(model.scores(images()), trained_cnn()(images()).detach())
    assert torch.equal(gradient(model.logits, images()), gradient(trained_cnn(), images()))
    assert model.capabilities == SCORED | {Capability.GRADIENTS, Capability.LAYERS, Capability.RETRAIN}
    assert model.module is not None
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    right = (model.predict(torch.from_numpy(digits().test.x)).numpy() == digits().test.labels).mean()
    assert right > 0.9


def mlp(**kwargs: Any) -> nn.Module:
    from importlib import import_module

    return import_module("assay_zoo.models").mlp(**kwargs).eval()


def weights(tmp_path: Path, state: Any, name: str = "mlp.pt") -> Path:
    torch.save(state, tmp_path / name)
    return tmp_path / name


def add_mlp(registry: Registry, path: Path, **parameters: Any) -> AuditedModel:
    registry.add("mlp", path, parameters={**MLP, **parameters}, classes=3, spec=FOUR)
    return registry.open("mlp")


def test_the_global_generator_is_left_alone(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, mlp(seed=5).state_dict())
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    add_mlp(registry, path)
    assert torch.equal(torch.rand(3), expected)


def test_kwargs_reach_the_factory(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, mlp(width=6).state_dict())
    with pytest.raises(UserError, match=r"0\.weight is \(8, 6\), the module wants \(8, 4\)"):
        add_mlp(registry, path)
    spec = InputSpec(fields=(Field(name="x", kind="number", shape=(6,)),))
    registry.add("wide", path, parameters={**MLP, "kwargs": {"width": 6}}, classes=3, spec=spec)
    x = torch.randn(5, 6)
    assert torch.equal(registry.open("wide").scores(x), mlp(width=6)(x).detach())


def test_an_entry_of_a_checkpoint_is_named_by_key(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, {"epoch": 3, "state_dict": mlp(seed=5).state_dict()})
    with pytest.raises(UserError, match=r"'epoch' is a int.*parameter 'key'; it has 'epoch', 'state_dict'"):
        add_mlp(registry, path)
    with pytest.raises(UserError, match="no entry 'model' with weights; it has 'epoch', 'state_dict'"):
        add_mlp(registry, path, key="model")
    x = torch.randn(5, 4)
    assert torch.equal(add_mlp(registry, path, key="state_dict").scores(x), mlp(seed=5)(x).detach())


def test_a_prefix_is_taken_off(registry: Registry, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in mlp(seed=5).state_dict().items()}
    path = weights(tmp_path, {**state, "ema.decay": torch.tensor(0.9)})
    with pytest.raises(UserError, match=r"lacks 0\.weight, .* and 3 more and adds module\.0\.weight"):
        add_mlp(registry, path)
    with pytest.raises(UserError, match=r"no weight's name starts with 'net\.'"):
        add_mlp(registry, path, prefix="net.")
    x = torch.randn(5, 4)
    assert torch.equal(add_mlp(registry, path, prefix="module.").scores(x), mlp(seed=5)(x).detach())


def test_weights_that_share_memory_may_be_stored_once(registry: Registry, tmp_path: Path) -> None:
    tied = mlp(tied=True, seed=5)
    path = tmp_path / "tied.safetensors"
    safetensors.torch.save_model(tied, str(path))
    assert len(safetensors.torch.load_file(path)) == len(tied.state_dict()) - 1
    x = torch.randn(5, 4)
    assert torch.equal(add_mlp(registry, path, kwargs={"tied": True}).scores(x), tied(x).detach())


def test_micro_batch_sets_the_rows_per_pass(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, mlp().state_dict())
    assert add_mlp(registry, path).micro_batch == 512
    model = add_mlp(registry, path, micro_batch=2)
    passes: list[int] = []
    assert model.module is not None
    model.module.register_forward_hook(lambda module, args, answer: passes.append(len(answer)))
    model.scores(torch.randn(5, 4))
    assert passes == [2, 2, 1]


def test_a_double_module_is_fed_doubles(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"weight 0\.weight is torch\.float64; the module's torch\.float32 would lose precision"
    ):
        add_mlp(registry, weights(tmp_path, mlp().double().state_dict()))
    half = {name: value.half() for name, value in mlp().state_dict().items()}
    x = torch.randn(5, 4)
    model = add_mlp(registry, weights(tmp_path, half, "half.pt"))
    assert model.scores(x.double()).dtype == torch.float32
    assert torch.allclose(model.scores(x), mlp()(x), atol=1e-2)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s.pop("0.bias"), r"the file lacks 0\.bias"),
        (lambda s: s.update(more=torch.ones(1)), "the file adds more"),
        (lambda s: s.update({"0.bias": torch.ones(9)}), r"0\.bias is \(9,\), the module wants \(8,\)"),
        (lambda s: s["3.weight"].view(-1)[5].fill_(float("nan")), r"weight 3\.weight holds NaN or infinite values"),
        (lambda s: s["3.weight"].view(-1)[5].fill_(float("-inf")), r"weight 3\.weight holds NaN or infinite values"),
        (lambda s: s.update({"0.bias": [1.0] * 8}), r"'0\.bias' is a list"),
        (lambda s: s.clear(), "holds a OrderedDict, not a state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    spoil: Any, said: str, registry: Registry, tmp_path: Path
) -> None:
    state = mlp().state_dict()
    spoil(state)
    with pytest.raises(UserError, match=said) as error:
        add_mlp(registry, weights(tmp_path, state))
    assert "\n" not in str(error.value)
    assert registry.list() == []


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("other_zoo.models:cnn", "not from an allowed package.*`audit model allow other_zoo`"),
        ("os:system", "not from an allowed package"),
        ("assay_zoo.models:system", r"\(defined in 'posix'\) is not from an allowed package"),
        ("assay_zoo.models:bound", r"\(defined in 'functools'\) is not from an allowed package"),
        ("assay_zoo.models:nothing", "module 'assay_zoo.models' has no 'nothing'"),
        ("assay_zoo.models:constant", "is a int, not a callable"),
        ("assay_zoo.nowhere:cnn", "cannot import 'assay_zoo.nowhere'.*PYTHONPATH"),
        ("assay_zoo.models:os.system", "names no callable: write 'package.module:function'"),
        ("assay_zoo.models", "names no callable"),
        ("assay_zoo.models:broken", r"factory 'assay_zoo.models:broken\(\)' failed: RuntimeError: no such"),
        ("assay_zoo.models:no_module", "made a dict, not an eager"),
    ],
)
def test_factories_come_from_allowed_packages_only(factory: str, said: str, registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, mlp().state_dict())
    with pytest.raises(UserError, match=said):
        registry.add("mlp", path, parameters={"factory": factory}, classes=3, spec=FOUR)


def test_a_package_that_is_no_longer_allowed_closes_its_models(registry: Registry, tmp_path: Path) -> None:
    add_mlp(registry, weights(tmp_path, mlp().state_dict()))
    registry.trust.revoke_package("assay_zoo")
    with pytest.raises(UserError, match="audit model allow assay_zoo"):
        registry.open("mlp")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_module_is_no_eager_one(registry: Registry, tmp_path: Path) -> None:
    path = weights(tmp_path, nn.Linear(2, 3).state_dict())
    with pytest.raises(UserError, match="not an eager"):
        registry.add("s", path, parameters={"factory": "assay_zoo.models:scripted"}, classes=3, spec=TWO)


def test_a_factory_whose_source_changed_is_refused(
    registry: Registry, tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    add_mlp(registry, weights(tmp_path, mlp().state_dict()))
    card = registry.get("mlp")
    assert len(str(card.parameters["code"])) == 64
    edited = tmp_path / "edited.py"
    edited.write_text((zoo / "models.py").read_text() + "\n# other\n")
    monkeypatch.setattr(import_module("assay_zoo.models"), "__file__", str(edited))
    with pytest.raises(UserError, match=r"source of 'assay_zoo.models:mlp' changed since mlp@1 was registered"):
        registry.open("mlp")


def test_a_training_checkpoint_with_objects_is_refused(registry: Registry, tmp_path: Path) -> None:
    from audit.registry.scan import digest_file

    path = tmp_path / "whole.pt"
    torch.save(nn.Linear(4, 3), path)
    with pytest.raises(UserError, match="audit model trust"):
        add_mlp(registry, path)
    registry.trust.allow_digest(digest_file(path), "tester", "even then")
    with pytest.raises(UserError, match="no way around weights_only=True"):
        add_mlp(registry, path)


def test_a_torch_file_of_the_old_kind_opens_where_it_is_trusted(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(mlp(seed=5).state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="audit model trust"):
        add_mlp(registry, path)
    x = torch.randn(5, 4)
    assert torch.equal(add_mlp(registry, trusting(registry, path)).scores(x), mlp(seed=5)(x).detach())


# --- exported programs and TorchScript ---


@pytest.mark.parametrize("kind", ["torch_export", "torchscript"])
def test_a_program_answers_and_differentiates_as_the_eager_model(kind: str, registry: Registry, tmp_path: Path) -> None:
    module = trained_cnn()
    path = tmp_path / "model.bin"
    if kind == "torch_export":
        exported(module, images(3), tmp_path / "cnn.pt2").rename(path)
    else:
        traced(module, images(3), path)
    with pytest.raises(UserError, match=r"can run code.*audit model trust [0-9a-f]{64}"):
        registry.add("cnn", path, classes=10, spec=DIGITS)
    trusting(registry, path)
    card = registry.add("cnn", path, classes=10, spec=DIGITS)
    assert card.loader == kind
    model = registry.open("cnn")
    assert model.capabilities == SCORED | {Capability.GRADIENTS}
    assert model.module is None
    for n in (1, 2, 40):
        assert torch.allclose(model.scores(images(n)), module(images(n)), atol=1e-5)
        assert torch.allclose(gradient(model.logits, images(n)), gradient(module, images(n)), atol=1e-5)
    assert torch.equal(model.scores(images().double()), model.scores(images()))
    from audit.registry.scan import digest_file

    registry.trust.revoke(digest_file(path))
    with pytest.raises(UserError, match="audit model trust"):
        registry.open("cnn")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_saved_in_training_mode_is_put_into_evaluation(registry: Registry, tmp_path: Path) -> None:
    module = mlp(seed=5).train()
    torch.jit.script(module).save(str(tmp_path / "m.pt"))
    registry.add("m", trusting(registry, tmp_path / "m.pt"), classes=3, spec=FOUR, parameters={"micro_batch": 2})
    model, x = registry.open("m"), torch.randn(5, 4)
    assert torch.allclose(model.scores(x), module.eval()(x), atol=1e-6)
    assert model.micro_batch == 2
    assert not model.logits(x).requires_grad


@pytest.mark.parametrize("kind", ["torch_export", "torchscript"])
def test_a_loader_asks_for_trust_whoever_calls_it(kind: str, registry: Registry, tmp_path: Path) -> None:
    from audit.registry.opening import build_loader
    from audit.registry.trust import Trust

    path = tmp_path / "m.bin"
    if kind == "torch_export":
        exported(mlp(), torch.randn(3, 4), tmp_path / "m.pt2").rename(path)
    else:
        traced(mlp(), torch.randn(3, 4), path)
    card = registry.add("m", trusting(registry, path), classes=3, spec=FOUR)
    loader = build_loader(kind, {})
    assert loader.load(card, {"m.bin": path}, registry.trust).output == "logit"
    with pytest.raises(UserError, match="its digest is not trusted"):
        loader.load(card, {"m.bin": path}, Trust(tmp_path / "nobody"))


def test_parameters_of_a_program_need_no_gradient(registry: Registry, tmp_path: Path) -> None:
    path = trusting(registry, exported(trained_cnn(), images(3), tmp_path / "cnn.pt2"))
    registry.add("cnn", path, classes=10, spec=DIGITS, parameters={"micro_batch": 7})
    model = registry.open("cnn")
    assert model.micro_batch == 7
    assert not model.logits(images()).requires_grad


@pytest.mark.parametrize(("batch", "dynamic"), [(1, None), (4, None), (4, (3, 5))])
def test_a_fixed_or_bounded_batch_is_filled_up(batch: int, dynamic: Any, registry: Registry, tmp_path: Path) -> None:
    dim = torch.export.Dim("batch", min=dynamic[0], max=dynamic[1]) if dynamic else None
    path = trusting(registry, exported(trained_cnn(), images(batch), tmp_path / "cnn.pt2", dynamic=dim))
    registry.add("cnn", path, classes=10, spec=DIGITS)
    model = registry.open("cnn")
    for n in (1, 3, 11):
        assert torch.allclose(model.scores(images(n)), trained_cnn()(images(n)), atol=1e-5)
        assert torch.allclose(gradient(model.logits, images(n)), gradient(trained_cnn(), images(n)), atol=1e-5)


class Dropping(nn.Module):
    """Dropout that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.layer(x), 0.5, training=True)


@pytest.mark.parametrize("kind", ["torch_export", "torchscript"])
@pytest.mark.parametrize("flaw", ["dropout", "batch norm"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_training_mode_is_seen_in_the_answers(kind: str, flaw: str, registry: Registry, tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    module = Dropping() if flaw == "dropout" else nn.Sequential(norm, nn.Linear(4, 3))
    example = torch.randn(3, 4)
    if kind == "torch_export":
        path = exported(module, example, tmp_path / "m.pt2", dynamic=torch.export.Dim("batch", min=2))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            path = tmp_path / "m.pt"
            torch.jit.trace(module, example, check_trace=False).save(str(path))
    with pytest.raises(UserError, match=rf"training mode \({flaw}\)|cannot answer 1 inputs"):
        registry.add("m", trusting(registry, path), classes=3, spec=FOUR)


def test_a_program_with_two_inputs_is_refused(registry: Registry, tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    program = torch.export.export(Two(), (torch.ones(2, 3), torch.ones(2, 3)))
    torch.export.save(program, tmp_path / "two.pt2")
    with pytest.raises(UserError, match="takes 2 inputs; an audit feeds one tensor"):
        registry.add("two", trusting(registry, tmp_path / "two.pt2"), classes=3, spec=FOUR)


def test_a_program_of_another_shape_is_refused(registry: Registry, tmp_path: Path) -> None:
    path = trusting(registry, exported(trained_cnn(), images(3), tmp_path / "cnn.pt2"))
    with pytest.raises(UserError, match=r"takes inputs of shape \(1×8×8\), the input spec says \(4,\)"):
        registry.add("cnn", path, classes=10, spec=FOUR)


# --- what registration asks ---


def add_head(registry: Registry, tmp_path: Path, head: str, **declared: Any) -> AuditedModel:
    path = weights(tmp_path, {"weight": torch.tensor([[1.0, 0.0, -1.0], [0.5, -2.0, 0.0]])})
    parameters = {"factory": "assay_zoo.models:Head", "kwargs": {"head": head}}
    registry.add("head", path, parameters=parameters, **{"classes": 3, "spec": TWO, **declared})
    return registry.open("head")


@pytest.mark.parametrize(
    ("head", "declared", "said"),
    [
        (
            "logits",
            {"classes": 4},
            r"answers shape \(8, 3\) to 8 rows; 4 classes need \(8, 4\); did you mean 3 classes\?",
        ),
        ("one", {"classes": 2}, "a single score for two classes is output 'margin'"),
        ("flat", {"classes": 3}, "a single number is output 'value'"),
        ("summed", {}, "answered 1 rows to 8: it must keep the batch dimension first"),
        ("tuple", {}, "answers a tuple, an audit needs one tensor"),
        ("detached", {}, "no gradient reaches its input"),
        ("nan", {}, "answers NaN or infinite for 8 of 8 rows.*NaN among its weights"),
        ("softmax", {}, "answers probabilities .* not logits: declare output 'probability'"),
        ("logits", {"output": "probability"}, "does not answer probabilities.*output 'logit'"),
        ("double", {"output": "probability"}, r"add up to 2 … 2"),
        ("logits", {"output": "margin"}, "a margin tells two classes apart, 3 were declared"),
        ("logits", {"output": "margin", "classes": 2}, r"output 'margin' needs \(8,\)"),
        ("logits", {"output": "value", "classes": None}, r"output 'value' needs \(8,\)"),
        ("logits", {"output": "label"}, r"output 'label' needs \(8,\)"),
        ("flat", {"output": "label", "classes": 2}, "answers labels .* 2 classes are the whole numbers 0 … 1"),
        ("logits", {"classes": None}, "say which classes"),
        ("logits", {"spec": None}, "does not say what the model is fed"),
        ("logits", {"classes": 1}, "at least two classes"),
        ("logits", {"classes": ["a", "a", "b"]}, "must be unique"),
        ("flat", {"output": "value"}, "a regression has no classes"),
        ("flat", {"task": "regression", "output": "logit"}, "does not answer output 'logit'"),
        ("logits", {"spec": FOUR}, r"cannot answer 8 inputs of shape \(4,\): RuntimeError: mat1 and mat2"),
    ],
)
def test_a_model_that_is_not_as_declared_is_not_registered(
    head: str, declared: dict[str, Any], said: str, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as error:
        add_head(registry, tmp_path, head, **declared)
    assert "\n" not in str(error.value)
    assert registry.list() == []
    assert not list((registry.home / "blobs").glob(".incoming/*"))


@pytest.mark.parametrize(
    ("head", "declared", "extra"),
    [
        ("logits", {}, SCORED | {Capability.GRADIENTS}),
        ("softmax", {"output": "probability"}, {Capability.PROBABILITIES, Capability.LABELS, Capability.GRADIENTS}),
        ("one", {"output": "margin", "classes": 2}, SCORED | {Capability.GRADIENTS}),
        ("flat", {"output": "margin", "classes": ["no", "yes"]}, SCORED | {Capability.GRADIENTS}),
        ("flat", {"output": "value", "classes": None}, {Capability.VALUES, Capability.GRADIENTS}),
        ("one", {"task": "regression", "classes": None}, {Capability.VALUES, Capability.GRADIENTS}),
    ],
)
def test_what_is_declared_is_what_opens(
    head: str, declared: dict[str, Any], extra: set[Capability], registry: Registry, tmp_path: Path
) -> None:
    model = add_head(registry, tmp_path, head, **declared)
    assert model.capabilities == extra | {Capability.LAYERS, Capability.RETRAIN}
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    first = x @ torch.tensor([1.0, 0.5])
    if model.output in ("margin", "value"):
        assert torch.equal(model.scores(x).reshape(-1), first)
    assert model.predict(x).shape == (2,)


@pytest.mark.parametrize("kind", ["weights", "torchscript"])
def test_a_text_comes_as_int64_code_points_and_has_no_gradient(kind: str, registry: Registry, tmp_path: Path) -> None:
    from assay_zoo.models import CharacterBag

    bag = CharacterBag().eval()
    x = torch.from_numpy(encode(["ab", "über uns", ""], 9))
    parameters: dict[str, Any] = {}
    if kind == "weights":
        path = tmp_path / "bag.safetensors"
        safetensors.torch.save_file(bag.state_dict(), path)
        parameters = {"factory": "assay_zoo.models:CharacterBag"}
    else:
        path = trusting(registry, traced(bag, x.long(), tmp_path / "bag.pt"))
    text = InputSpec(fields=(Field(name="said", kind="text", shape=(9,)),))
    registry.add("bag", path, parameters=parameters, spec=text, classes=2, output="logit")
    model = registry.open("bag")
    torch.testing.assert_close(model.scores(x), bag(x.long()).detach())
    assert Capability.GRADIENTS not in model.capabilities | set(registry.get("bag").capabilities)
    assert Capability.LOGITS in model.capabilities


def test_the_factory_makes_it_anew_by_a_seed(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "cnn.safetensors"
    safetensors.torch.save_file(trained_cnn().state_dict(), path)
    registry.add("cnn", path, parameters=CNN, classes=10, spec=DIGITS)
    model = registry.open("cnn")
    assert model.fresh is not None
    before = torch.random.get_rng_state()
    one, again, other = (model.fresh(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.training
    assert all(p.requires_grad for p in one.parameters())
    same, differs = (
        [torch.equal(a, b) for a, b in zip(one.parameters(), made.parameters(), strict=True)] for made in (again, other)
    )
    assert all(same)
    assert not any(differs)


def test_a_factory_that_makes_the_trained_model_is_found_out(registry: Registry, tmp_path: Path) -> None:
    model = add_mlp(registry, weights(tmp_path, mlp().state_dict()))
    assert model.fresh is not None
    with pytest.raises(NotApplicable, match="makes the trained model itself"):
        model.fresh(0)
