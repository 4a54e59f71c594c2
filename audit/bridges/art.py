"""The Adversarial Robustness Toolbox (ART): its evasion attacks run on an audited model.

ART sees the input box as 0..1, whatever the user's units are, because its attacks' default lengths (learning rates, finite
differences, `theta`, `sigma`) are made for that; eps and `eps_step` are converted. Whatever ART draws is seeded, the generators
it makes itself without a seed included.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.bridges.art_catalogue import Signature, access, attack_name, signature
from audit.bridges.global_generators import seeded
from audit.finding import ThreatModel
from audit.model import AuditedModel, Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_NORMS = {"linf": float("inf"), "l2": 2, "l1": 1}
# These want softmax outputs; the others do better on logits, which do not saturate.
_WANTS_PROBABILITIES = {"newton_fool", "simba", "virtual_adversarial_method"}
# These take `y` for the class to reach, and choose one at random where they are given none.
_TAKES_TARGETS = {"saliency_map_method"}


@dataclass(frozen=True)
class ArtResult:
    """What an ART attack proposes.

    Args:
        x: ``(N, *shape)`` in the user's units; a row in which nothing was found is the input itself, bit for bit.
        queries: rows that went forward, all examples together.
        gradients: rows that went backward.
        zero_gradients: how many of those came back zero in every element.
    """

    x: Tensor
    queries: int
    gradients: int
    zero_gradients: int


class _UnitBox:
    """The input box as 0..1."""

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.low, self.width = bounds[0], bounds[1] - bounds[0]
        self._high = bounds[1]

    def enter(self, x: Tensor) -> Tensor:
        return ((x - self.low) / self.width).clamp(0.0, 1.0)

    def leave(self, u: Tensor) -> Tensor:
        return (u * self.width + self.low).clamp(self.low, self._high)


def run(
    name: str,
    parameters: Mapping[str, Any],
    model: AuditedModel,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    seed: int,
) -> ArtResult:
    """Run one ART attack, untargeted, on rows that the model gets right.

    Args:
        name: as in `signatures`.
        parameters: constructor parameters; `eps_step` in the user's units (default: a quarter of eps), other lengths with the
            box as 0..1.
        x: ``(N, *shape)``.
        y: ``(N,)`` int64.
        threat: norm, eps and bounds. Bounds are required: ART starts and clips by them.
        seed: of every generator the attack draws from; the global ones are given back as they were.

    Raises:
        UserError: the model has no bounds, or ART refuses a parameter's value.
    """
    import numpy as np

    found = signature(name)
    if threat.bounds is None or threat.eps is None or threat.norm is None:
        raise UserError(f"art.{name} needs a norm, an eps and bounds of the input")
    box = _UnitBox(threat.bounds)
    clean = box.enter(x).cpu().numpy().astype(np.float32)
    labels = np.eye(len(model.classes), dtype=np.float32)[y.cpu().numpy()]
    with seeded(seed), _seeded_states(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ART warns of its own internals, in NumPy's and torch's names
        wrap = _white_box if access(name) == "white_box" else _black_box
        queried = _Queried(model, box, x, name in _WANTS_PROBABILITIES)
        attack = _build(found, parameters, wrap(queried), model.micro_batch, threat, box.width)
        told = None if name in _TAKES_TARGETS else labels
        try:
            moved = np.asarray(attack.generate(x=clean.copy(), y=told), dtype=np.float32)
        except ImportError as error:
            raise _missing(name, error) from error
        except (ValueError, IndexError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            shape = tuple(x.shape[1:])
            raise UserError(
                f"art.{name} cannot attack inputs of shape {shape} with these parameters: {error}"
            ) from error
    if moved.shape != clean.shape:
        raise RuntimeError(f"art.{name} answered shape {moved.shape} to inputs of shape {clean.shape}")
    return ArtResult(_proposals(found, x, clean, moved, box, threat), queried.forward, queried.backward, queried.zero)


def _build(
    found: Signature, parameters: Mapping[str, Any], estimator: Any, micro_batch: int, threat: ThreatModel, width: float
) -> Any:
    """The ART attack, told the threat model."""
    eps = (threat.eps or 0.0) / width
    arguments: dict[str, Any] = {
        "eps": eps,
        "norm": _NORMS[threat.norm or "linf"],
        "targeted": False,
        "verbose": False,
        "batch_size": micro_batch,
        # AutoPGD starts with steps of twice eps and halves them (Croce & Hein 2020, arXiv:2003.01690).
        "eps_step": 2 * eps if found.name.startswith(("auto_", "rescaling_auto_")) else eps / 4,
    }
    if found.parameters.get("batch_size") == "1":
        del arguments["batch_size"]  # some know no other
    arguments = {key: value for key, value in arguments.items() if key in found.parameters}
    if "es" in found.parameters:
        arguments["es"] = (
            1  # differential evolution, of SciPy; the other strategy needs a package that ART does not declare
        )
    for key, value in parameters.items():
        arguments[key] = value / width if key == "eps_step" else value
    try:
        cls = getattr(importlib.import_module(found.module), found.class_name)
        if "attacker_params" in found.parameters and _draws_bars(cls, arguments.get("attacker", "deepfool")):
            arguments["attacker_params"] = {"verbose": False, **(arguments.get("attacker_params") or {})}
        return cls(estimator, **arguments)
    except ImportError as error:
        raise _missing(found.name, error) from error
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"art.{found.name} refuses its parameters: {error}") from error


def _missing(name: str, error: ImportError) -> UserError:
    return UserError(f"art.{name} needs a package that is not installed: {error}")


def _draws_bars(cls: Any, attacker: str) -> bool:
    """Whether the attack inside a universal one can be told to be quiet; an unknown one is ART's to refuse."""
    inner = cls.attacks_dict.get(attacker, "").rsplit(".", 1)[-1]
    return bool(inner) and "verbose" in signature(attack_name(inner)).parameters


def _proposals(
    found: Signature, x: Tensor, clean: NDArray[Any], moved: NDArray[Any], box: _UnitBox, threat: ThreatModel
) -> Tensor:
    """ART's answer in the user's units; what it left alone is the input itself.

    The way there and back rounds, so a perturbation that is over eps by no more than that is pulled in. An attack that seeks the
    nearest example and knows of no eps has found nothing where its answer is beyond; one that was told eps is taken at its word.
    """
    import torch

    eps = threat.eps if threat.eps is not None else float("inf")
    changed = torch.from_numpy((moved != clean).reshape(len(x), -1).any(axis=1)).to(x.device)
    out = box.leave(torch.from_numpy(moved).to(x.device, x.dtype))
    delta = out - x
    flat = delta.flatten(1)
    size = flat.abs().amax(dim=1) if threat.norm == "linf" else flat.norm(p=_NORMS[threat.norm or "l2"], dim=1)
    growth = flat.shape[1] ** {"linf": 0.0, "l2": 0.5, "l1": 1.0}[threat.norm or "linf"]
    over = (size > eps) & (size <= eps + 1e-6 * box.width * growth)
    if bool(over.any()):
        if threat.norm == "linf":
            pulled = x[over] + delta[over].clamp(-eps, eps)
        else:
            pulled = x[over] + delta[over] * (eps / size[over]).reshape(-1, *[1] * (x.dim() - 1))
        out[over], size[over] = pulled, eps
    if "eps" not in found.parameters:
        changed &= size <= eps
    return torch.where(changed.reshape(-1, *[1] * (x.dim() - 1)), out, x)


class _Queried:
    """The audited model as ART sees it, over the unit box; rows are counted where they pass.

    Args:
        like: a batch whose dtype and device the model is fed.
        probabilities: answer softmax outputs instead of logits.
    """

    def __init__(self, model: AuditedModel, box: _UnitBox, like: Tensor, probabilities: bool) -> None:
        self.model, self._box, self._like, self._probabilities = model, box, like, probabilities
        self.forward = self.backward = self.zero = 0

    @property
    def described(self) -> dict[str, Any]:
        """What every ART classifier is told."""
        return {
            "input_shape": tuple(self._like.shape[1:]),
            "nb_classes": len(self.model.classes),
            "clip_values": (0.0, 1.0),
            "channels_first": True,
        }

    @property
    def on_gpu(self) -> bool:
        return self._like.is_cuda

    def answer(self, u: Tensor) -> Tensor:
        """Scores ``(N, C)``, differentiable where the model is; of a model that gives labels only, the label as one-hot.

        Raises:
            ArithmeticError: the attack made NaN of its inputs.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        u = u.to(self._like)  # ART feeds doubles where it computes in them
        if not bool(u.isfinite().all()):
            raise ArithmeticError(
                f"the attack made NaN of inputs of shape {tuple(u.shape[1:])}: its parameters do not fit them"
            )
        self.forward += len(u)
        if u.requires_grad:
            u.register_hook(self._count)  # type: ignore[no-untyped-call]
        x = self._box.leave(u)
        if Capability.PROBABILITIES not in self.model.capabilities:
            return torch.nn.functional.one_hot(self.model.predict(x), len(self.model.classes))
        parts = x.split(self.model.micro_batch)  # type: ignore[no-untyped-call]
        scores = torch.cat([self.model.logits(part) for part in parts])
        self.model.check_finite(scores.detach())
        return scores.softmax(dim=1) if self._probabilities else scores

    def _count(self, gradient: Tensor) -> None:
        self.backward += len(gradient)
        self.zero += int((gradient == 0).flatten(1).all(dim=1).sum())


def _white_box(queried: _Queried) -> Any:
    """ART's differentiable classifier."""
    import torch
    from art.estimators.classification import PyTorchClassifier

    class Scores(torch.nn.Module):
        """Keeps the audited module out of reach of ART's train(), zero_grad() and hooks."""

        def forward(self, u: Tensor) -> Tensor:
            return queried.answer(u)

    return PyTorchClassifier(
        model=Scores(),
        loss=torch.nn.CrossEntropyLoss(),
        device_type="gpu" if queried.on_gpu else "cpu",
        **queried.described,
    )


def _black_box(queried: _Queried) -> Any:
    """ART's classifier without gradients."""
    import torch
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    def predict(u: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            answer: NDArray[Any] = queried.answer(torch.from_numpy(u)).cpu().numpy()
        return answer

    return BlackBoxClassifierNeuralNetwork(predict, **queried.described)


@contextmanager
def _seeded_states(seed: int) -> Iterator[None]:
    """Seed the generators that ART makes without a seed (`np.random.RandomState()` in HopSkipJump, BoundaryAttack …)."""
    import numpy as np

    genuine = np.random.RandomState
    seeds = iter(range(seed, seed + 2**31))

    class Seeded(genuine):  # type: ignore[misc, valid-type]
        def __init__(self, given: Any = None) -> None:
            super().__init__(next(seeds) % 2**32 if given is None else given)

    np.random.RandomState = Seeded  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        np.random.RandomState = genuine  # type: ignore[misc]
