"""What the Adversarial Robustness Toolbox (ART) offers, and what of it is run here.

Names and parameters of its evasion attacks are read from the installed source with `ast`; ART itself (seconds to import) is not
loaded.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from audit.finding import Access
from audit.model import Capability
from audit.names import nearest, unknown
from audit.parameters import UserError

_EVASION = "art.attacks.evasion"
_GIVEN = ("estimator", "classifier", "eps", "norm", "targeted", "verbose", "summary_writer")
"""Constructor parameters that the scenario's threat model or the bridge sets."""

# ART declares what an attack needs of its estimator. These are offered; an attack that asks for more is for other tasks.
_OFFERED = {"BaseEstimator", "ClassifierMixin", "NeuralNetworkMixin", "LossGradientsMixin", "ClassGradientsMixin"}
_GRADIENTS = {"LossGradientsMixin", "ClassGradientsMixin"}


# --- what ART offers, read from its source -----------------------------------------------------------------------


@dataclass(frozen=True)
class Signature:
    """One of ART's evasion attacks.

    Args:
        name: as in a scenario: ``square_attack``.
        module: where ART defines `class_name`.
        parameters: constructor parameter → source text of its default; None where it has none.
        requires: estimator classes it asks for.
        orders: the orders of norm that it accepts, as ``1``, ``2``, ``np.inf``; empty where it names none.
    """

    name: str
    module: str
    class_name: str
    parameters: Mapping[str, str | None]
    requires: frozenset[str]
    orders: frozenset[str] = frozenset()

    @property
    def settable(self) -> list[str]:
        """Parameters that a scenario may set."""
        return [name for name in self.parameters if name not in _GIVEN]


def attack_name(class_name: str) -> str:
    """``SquareAttack`` → ``square_attack``, ``CarliniLInfMethod`` → ``carlini_linf_method``, ``GeoDA`` → ``geoda``."""
    for brand in ("PyTorch", "TensorFlow", "GeoDA", "SimBA", "ProFool", "DPatch", "LInf", "FGSM"):
        class_name = class_name.replace(brand, brand.capitalize())
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()


@cache
def _root() -> Path:
    """The folder ART is installed in; finding it does not import it."""
    found = importlib.util.find_spec("art")
    if found is None or not found.submodule_search_locations:
        raise UserError("ART is not installed: pip install adversarial-robustness-toolbox")
    return Path(next(iter(found.submodule_search_locations)))


@cache
def _tree(module: str) -> ast.Module:
    path = _root().joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(module: str) -> dict[str, str]:
    """Name → the ART module it is imported from, wherever in the file."""
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("art.")
        for alias in node.names
    }


@cache
def _classes() -> dict[str, tuple[str, str]]:
    """Attack name → (module, class)."""
    return {attack_name(name): (module, name) for name, module in _imports(_EVASION).items()}


def _class(module: str, name: str) -> ast.ClassDef | None:
    return next((n for n in _tree(module).body if isinstance(n, ast.ClassDef) and n.name == name), None)


def _lineage(module: str, name: str) -> Iterator[ast.ClassDef]:
    """A class and its ancestors inside ART's attacks, nearest first."""
    found = _class(module, name)
    if found is None:
        return
    yield found
    origins = _imports(module)
    for base in found.bases:
        if isinstance(base, ast.Name):
            yield from _lineage(origins.get(base.id, module), base.id)


def _constructor(lineage: Sequence[ast.ClassDef]) -> dict[str, str | None]:
    for node in lineage:
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                names = [a.arg for a in item.args.args[1:]] + [a.arg for a in item.args.kwonlyargs]
                positional = [None] * (len(item.args.args) - 1 - len(item.args.defaults)) + item.args.defaults
                defaults = [*positional, *item.args.kw_defaults]
                return {n: ast.unparse(d) if d is not None else None for n, d in zip(names, defaults, strict=True)}
    return {}


def _requirements(lineage: Sequence[ast.ClassDef]) -> frozenset[str]:
    for node in lineage:
        for item in node.body:
            targets = (
                item.targets
                if isinstance(item, ast.Assign)
                else [item.target]
                if isinstance(item, ast.AnnAssign)
                else []
            )
            if any(isinstance(t, ast.Name) and t.id == "_estimator_requirements" for t in targets):
                return frozenset(n.id for n in ast.walk(item.value) if isinstance(n, ast.Name))  # type: ignore[attr-defined]
    return frozenset()


def _orders(lineage: Sequence[ast.ClassDef]) -> frozenset[str]:
    """What the nearest ``if self.norm not in [1, 2, np.inf]`` of a class compares with."""
    for node in lineage:
        for item in ast.walk(node):
            if (
                isinstance(item, ast.Compare)
                and isinstance(item.ops[0], ast.NotIn)
                and ast.unparse(item.left) == "self.norm"
                and isinstance(item.comparators[0], ast.List)
            ):
                return frozenset(ast.unparse(order) for order in item.comparators[0].elts)
    return frozenset()


@cache
def signature(name: str) -> Signature:
    """What ART's attack `name` takes and asks for.

    Raises:
        UserError: ART has no such evasion attack; the nearest name is offered.
    """
    if name not in _classes():
        raise unknown("ART attack", f"art.{name}", [f"art.{known}" for known in sorted(_classes())])
    module, class_name = _classes()[name]
    lineage = list(_lineage(module, class_name))
    return Signature(name, module, class_name, _constructor(lineage), _requirements(lineage), _orders(lineage))


def signatures() -> dict[str, Signature]:
    """Every evasion attack of the installed ART."""
    return {name: signature(name) for name in sorted(_classes())}


# --- what of it this project runs --------------------------------------------------------------------------------

_OTHER_FRAMEWORK = "it is written for another framework than torch"
_NO_BALL = "it does not stay close in an lp norm, so no eps bounds it"
_TARGETED = "it has no untargeted form"
_VIDEO = "it is made for video"
_REFUSED = {
    "brendel_bethge_attack": "two runs with one seed have been seen to differ, and it compiles for minutes before its first step",
    "geoda": "ART 1.20 calls np.mat, which NumPy 2 has removed",
    "low_profool": "it needs an importance for every feature, fitted beforehand",
    "auto_attack": "ART's AutoAttack is not the standard AutoAttack, and it needs the undeclared package multiprocess; "
    "name the attacks you want one by one",
    "adversarial_patch": _NO_BALL,
    "adversarial_patch_numpy": _NO_BALL,
    "adversarial_patch_pytorch": _NO_BALL,
    "adversarial_patch_tensorflow_v2": _OTHER_FRAMEWORK,
    "composite_adversarial_attack_pytorch": _NO_BALL,
    "feature_adversaries_numpy": _TARGETED,
    "feature_adversaries_pytorch": _TARGETED,
    "feature_adversaries_tensorflow_v2": _OTHER_FRAMEWORK,
    "frame_saliency_attack": _VIDEO,
    "graphite_blackbox": _NO_BALL,
    "graphite_whitebox_pytorch": _NO_BALL,
    "laser_attack": _NO_BALL,
    "malware_gd_tensorflow": _OTHER_FRAMEWORK,
    "over_the_air_flickering_pytorch": _VIDEO,
    "overload_pytorch": "it attacks object detectors",
    "projected_gradient_descent_tensorflow_v2": _OTHER_FRAMEWORK,
    "shadow_attack": _NO_BALL,
    "snal": "it attacks object detectors",
    "spatial_transformation": _NO_BALL,
    "targeted_universal_perturbation": _TARGETED,
    "wasserstein": _NO_BALL,
}
# ART declares no need of gradients for it, but the attack inside it takes them.
_HIDDEN_GRADIENTS = {"universal_perturbation"}
_LABELS_ONLY = {"boundary_attack", "hop_skip_jump", "sign_opt_attack"}
# The norm that eps has where the constructor has no `norm`.
_NORM_OF_EPS = {"basic_iterative_method": "linf", "virtual_adversarial_method": "l2"}


_ORDERS = {"linf": "np.inf", "l2": "2", "l1": "1"}


def refusal(name: str) -> str | None:
    """Why an ART attack is not offered; None where it is."""
    found = signature(name)
    if name in _REFUSED:
        return _REFUSED[name]
    if other := sorted(found.requires - _OFFERED):
        return f"it works on {' and '.join(other)}, which no classifier under audit is"
    return None


def available() -> list[str]:
    """The ART attacks that are offered."""
    return [name for name in sorted(_classes()) if refusal(name) is None]


def refused() -> dict[str, list[str]]:
    """Why → the ART attacks that are not offered for that reason."""
    found: dict[str, list[str]] = {}
    for name in sorted(_classes()):
        if reason := refusal(name):
            found.setdefault(reason, []).append(name)
    return found


def check(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse an attack that is not offered, or a parameter that its constructor does not take.

    Raises:
        UserError: one line, with the nearest known name.
    """
    found = signature(name)
    if reason := refusal(name):
        raise UserError(f"art.{name} is not offered: {reason}")
    for parameter in parameters:
        if parameter in _GIVEN and parameter in found.parameters:
            raise UserError(f"art.{name}: '{parameter}' comes from the check and the model, leave it out")
        if parameter not in found.parameters:
            guess = nearest(parameter, found.settable)
            hint = f"did you mean '{guess}'?" if guess else f"it has: {', '.join(found.settable)}"
            raise UserError(f"art.{name} has no parameter '{parameter}'; {hint}")


def access(name: str) -> Access:
    """What the adversary sees."""
    if signature(name).requires & _GRADIENTS or name in _HIDDEN_GRADIENTS:
        return "white_box"
    return "black_box_labels" if name in _LABELS_ONLY else "black_box_scores"


def needs(name: str) -> frozenset[Capability]:
    """What the model must offer."""
    return {
        "white_box": frozenset({Capability.GRADIENTS, Capability.LOGITS}),
        "black_box_scores": frozenset({Capability.PROBABILITIES}),
        "black_box_labels": frozenset({Capability.LABELS}),
    }[access(name)]


def norms(name: str) -> frozenset[str]:
    """Norms whose eps the attack can be held to.

    An attack that takes a norm says in its source which; one without eps looks for the nearest misclassified input by a distance of its
    own, and what it finds within eps in any norm counts.
    """
    found = signature(name)
    if "norm" not in found.parameters and name in _NORM_OF_EPS:
        return frozenset({_NORM_OF_EPS[name]})
    if found.orders:
        return frozenset(norm for norm, order in _ORDERS.items() if order in found.orders)
    return frozenset(_ORDERS)
