"""Run folders made by hand: every status, every kind of evidence, real digits."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.finding import (
    Bound,
    Estimate,
    EvidenceRef,
    Exact,
    Finding,
    Mean,
    Measurement,
    Outcome,
    Proportion,
    RankAuc,
    Resampled,
    Severity,
    Status,
    ThreatModel,
    fingerprint,
    part_name,
)
from audit.gate import Gate
from audit.judge.decision import decide, describe_estimate
from audit.judge.verdicts import verdict
from audit.run_folder import Recorded, Run, RunWriter

CLASSES = [str(i) for i in range(10)]
LINF = ThreatModel(
    access="white_box", goal="untargeted", norm="linf", eps=2.0, bounds=(0, 16), units="grey levels", realised=2.0
)
SCENARIO = """\
name: digits-release
description: A convolutional net that reads digits
model: digits-cnn@1
data: {source: sklearn.digits, split: {test: 0.3}}
seed: 7
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.95", "recall[*]": ">= 0.8"}
  - robustness.evasion: {attacks: [pgd], norm: linf, eps: 2}
    require: {robust_accuracy: ">= 0.6", clean_accuracy: ">= 0.9"}
    severity: critical
  - privacy.membership_inference: {}
    require: {auc: "<= 0.6"}
  - explanation.faithfulness: {explainer: integrated_gradients}
    require: {deletion_gain: "> 0"}
    severity: medium
waivers:
  - {finding: "privacy.membership_inference/advantage", owner: Ada Lovelace, reason: retrained next sprint, expires: 2099-12-31}
"""


def finding(
    step: str = "robustness.evasion",
    metric: str | None = "robust_accuracy",
    estimate: Estimate | None = None,
    required: str | None = None,
    *,
    status: Status | None = None,
    message: str = "",
    title: str = "",
    severity: Severity = Severity.HIGH,
    dims: dict[str, str] | None = None,
    **more: Any,
) -> Finding:
    """A finding as judging makes it: status and message from the estimate and the gate, unless they are given."""
    gate = Gate.parse(required) if required else None
    if estimate is not None and gate is not None and status is None:
        decision = decide(estimate, gate)
        status, message = decision.status, message or decision.message
    elif estimate is not None:
        message = message or describe_estimate(estimate)
    interval = None
    if estimate is not None:
        low, high = (None if np.isinf(v) else v for v in estimate.interval())
        interval = (low, high)
    tail = part_name(metric, dims or {}) if metric else ""
    check = more.pop("check", step.split("[")[0])
    return Finding(
        id=f"{step}/{tail}" if tail else step,
        step=step,
        check=check,
        params=more.pop("params", {"eps": 2.0, "norm": "linf", "attacks": ["pgd"], "targeted": False}),
        model=more.pop("model", "digits-cnn@1"),
        status=status or Status.INFO,
        severity=severity,
        message=message or "measured",
        metric=metric,
        title=title or (metric or check).replace("_", " "),
        dims=dims or {},
        estimate=estimate,
        interval=more.pop("interval", interval),
        required=str(gate) if gate else None,
        gate=tail if gate else None,
        seed=7,
        fingerprint=fingerprint(check, step, tail, gate.comparison if gate else ""),
        **more,
    )


class Stored:
    """A run folder in the making."""

    def __init__(self, path: Path, text: str = SCENARIO, **manifest: Any) -> None:
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.writer = RunWriter(path, {**MANIFEST, "scenario_sha256": digest, **manifest}, text)
        self.findings: list[Finding] = []

    def evidence(
        self, step: str, name: str, kind: str, ids: Sequence[str], meta: dict[str, Any], **fields: Any
    ) -> EvidenceRef:
        """Store one series."""
        series = self.writer.evidence(step, name, kind, meta)
        series.append(list(ids), **fields)
        return series.ref

    def add(self, *findings: Finding) -> Stored:
        """Remember findings, and record what they rest on."""
        for f in findings:
            self.findings.append(f)
            if f.estimate is not None and f.metric is not None:
                self.record(f, Measurement(metric=f.metric, estimate=f.estimate, dims=f.dims, evidence=f.evidence))
        return self

    def record(self, f: Finding, measurement: Measurement | None = None, outcome: Outcome | None = None) -> None:
        """One line of measurements.jsonl."""
        self.writer.record(
            Recorded(step=f.step, id=f.step, check=f.check, model=f.model, measurement=measurement, outcome=outcome)
        )

    def finish(self, fail_on: Severity = Severity.LOW) -> Run:
        """End the run as the engine does."""
        for step in dict.fromkeys(f.step for f in self.findings):
            mine = [f for f in self.findings if f.step == step]
            bad = next((f for f in mine if f.status is Status.ERROR), None)
            absent = next((f for f in mine if f.status is Status.NOT_APPLICABLE), None)
            outcome = Outcome(
                status="error" if bad else "not_applicable" if absent else "completed",
                message=(bad or absent or mine[0]).message if bad or absent else "",
            )
            self.record(mine[0], outcome=outcome)
        result = verdict(self.findings, fail_on)
        steps = list(dict.fromkeys(f.step for f in self.findings))
        timings = {"steps": {step: 1.5 + i for i, step in enumerate(steps)}, "total": 12.25}
        facts = {
            "ended": "2026-11-20T10:00:12+00:00",
            "fail_on": str(fail_on),
            "verdict": {
                "word": result.word,
                "sentence": result.sentence,
                "exit_code": result.exit_code,
                "counts": dict(result.counts),
            },
        }
        self.writer.finish(self.findings, timings, facts)
        self.close()
        return Run(self.writer.path)

    def close(self) -> Run:
        """Leave the run as it is: interrupted, unless it was finished."""
        self.writer.__exit__()
        return Run(self.writer.path)


MANIFEST: dict[str, Any] = {
    "audit": "0.1.0",
    "scenario": "digits-release",
    "description": "A convolutional net that reads digits",
    "origin": "digits.yaml",
    "started": "2026-11-20T10:00:00+00:00",
    "seed": 7,
    "threads": 2,
    "models": {
        "digits-cnn@1": {
            "name": "digits-cnn",
            "version": 1,
            "digest": "0f" * 32,
            "task": "classification",
            "classes": CLASSES,
            "output": "logit",
            "capabilities": ["gradients", "labels", "layers", "logits", "probabilities"],
            "spec": {
                "fields": [
                    {
                        "name": "image",
                        "kind": "image",
                        "shape": [1, 8, 8],
                        "bounds": [0.0, 16.0],
                        "units": "grey levels",
                    }
                ],
                "preprocessing": "division by 16",
            },
            "files": {"digits.safetensors": "1e" * 32},
        }
    },
    "data": {
        "source": "sklearn.digits",
        "parameters": {"split": {"test": 0.3}},
        "digest": "2d" * 32,
        "classes": CLASSES,
        "rows": {"test": 540, "train": 1257},
        "groups": [],
        "notes": ["no column is missing"],
    },
    "steps": [
        "performance.classification",
        "robustness.evasion",
        "privacy.membership_inference",
        "explanation.faithfulness",
    ],
    "platform": {"python": "3.11.2", "system": "Linux", "machine": "x86_64"},
    "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
}


@cache
def images() -> tuple[Any, Any]:
    """Real digits ``(N, 1, 8, 8)`` in 0..16, and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images[:, None].astype(np.float32), bunch.target.astype(np.int64)


def attribution_maps(stored: Stored, n: int = 64, name: str = "integrated_gradients") -> EvidenceRef:
    """Maps of a linear classifier, exact: weight times pixel."""
    from sklearn.linear_model import LogisticRegression

    x, y = images()
    flat = x.reshape(len(x), -1)
    model = LogisticRegression(max_iter=300, C=0.01).fit(flat[600:1000], y[600:1000])
    said = model.predict(flat[:n])
    values = (model.coef_[said] * (flat[:n] - flat.mean(0))).reshape(n, 1, 8, 8)
    meta = {
        "explainer": name,
        "parameters": {"steps": 64, "baseline": "mean"},
        "input_kind": "image",
        "classes": CLASSES,
        "feature_names": None,
    }
    scores = np.full(n, 0.93)
    return stored.evidence(
        "explanation.faithfulness", name, "attributions", [f"row{i:03d}" for i in range(n)], meta,
        x=x[:n], values=values, target=said, prediction=said, label=y[:n], score=scores, error=np.full(n, 0.01),
    )  # fmt: skip


def adversarial_examples(stored: Stored, n: int = 40, name: str = "pgd") -> EvidenceRef:
    """Digits with a bounded change; every third one holds."""
    x, y = images()
    noise = np.sign(np.random.default_rng(0).normal(size=x[:n].shape)).astype(np.float32)
    changed = np.clip(x[:n] + 2 * noise, 0, 16)
    after = np.where(np.arange(n) % 3 == 0, y[:n], (y[:n] + 5) % 10)
    meta = {
        "attack": name,
        "norm": "linf",
        "eps": 2.0,
        "units": "grey levels",
        "classes": CLASSES,
        "input_kind": "image",
        "bounds": [0, 16],
    }
    return stored.evidence(
        "robustness.evasion", name, "adversarial", [f"row{i:03d}" for i in range(n)], meta,
        x=x[:n], adversarial=changed, label=y[:n], prediction=y[:n], adversarial_prediction=after,
        size=np.abs(changed - x[:n]).reshape(n, -1).max(1), queries=np.full(n, 40),
    )  # fmt: skip


def security_curve(stored: Stored) -> EvidenceRef:
    """Robust accuracy over eps for two attacks, with intervals."""
    eps = np.tile([0, 0.5, 1, 2, 4], 2)
    k = np.array([525, 490, 455, 330, 60, 525, 500, 480, 420, 250])
    band = np.array([Proportion(k=int(v), n=540).interval() for v in k])
    return stored.evidence(
        "robustness.evasion", "security_curve", "curve", [str(i) for i in range(10)],
        {"title": "security curve", "x_label": "eps (grey levels)", "y_label": "robust accuracy", "x_scale": "linear", "y_scale": "linear"},
        x=eps, y=k / 540, low=band[:, 0], high=band[:, 1], series=np.array(["pgd"] * 5 + ["square"] * 5),
    )  # fmt: skip


def roc_curve(stored: Stored) -> EvidenceRef:
    """The ROC of two shifted Gaussians."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.8, 1, 800), rng.normal(0, 1, 800)
    cuts = np.sort(np.concatenate([inside, outside, [np.inf]]))[::-1]
    fpr = np.array([(outside >= c).mean() for c in cuts])
    tpr = np.array([(inside >= c).mean() for c in cuts])
    return stored.evidence(
        "privacy.membership_inference",
        "roc",
        "roc",
        [str(i) for i in range(len(cuts))],
        {"title": "loss threshold"},
        fpr=fpr,
        tpr=tpr,
    )


def confusion(stored: Stored, n_classes: int = 10) -> EvidenceRef:
    """A confusion matrix with a few confusions."""
    counts = np.diag(np.full(n_classes, 50)) + np.eye(n_classes, k=1, dtype=int) * 3
    return stored.evidence(
        "performance.classification", "confusion", "confusion_matrix", ["all"],
        {"classes": [str(i) for i in range(n_classes)]}, counts=counts[None],
    )  # fmt: skip


def rich_run(path: Path) -> Run:
    """One finding of every status, evidence of every kind: what a real audit of a digits net looks like."""
    s = Stored(path)
    matrix, curve, examples = confusion(s), security_curve(s), adversarial_examples(s)
    roc, maps = roc_curve(s), attribution_maps(s)
    per_class = [
        finding("performance.classification", metric, Proportion(k=50 - i % 4, n=54), dims={"class": c}, title=metric)
        for i, c in enumerate(CLASSES)
        for metric in ("precision", "recall")
    ]
    replicates = tuple(0.05 + 0.0004 * i for i in range(200))
    s.add(
        finding("performance.classification", "accuracy", Proportion(k=525, n=540), ">= 0.95", evidence=(matrix,)),
        finding("performance.classification", "f1_macro", Resampled(value=0.968, replicates=tuple(0.95 + i * 2e-4 for i in range(200)), n=540)),
        *per_class,
        finding("robustness.evasion", "clean_accuracy", Proportion(k=525, n=540), ">= 0.9", severity=Severity.CRITICAL, threat_model=LINF),
        finding(
            "robustness.evasion", "robust_accuracy", Proportion(k=248, n=540), ">= 0.6", severity=Severity.CRITICAL,
            threat_model=LINF, evidence=(curve, examples), remedy="Train on adversarial examples, or lower what is promised.",
            cautions=("A single restart was used; more could only lower the number.",),
        ),
        finding("privacy.membership_inference", "auc", RankAuc(value=0.585, n_pos=540, n_neg=540), "<= 0.6", evidence=(roc,),
                threat_model=ThreatModel(access="black_box_scores", goal="membership")),
        finding("privacy.membership_inference", "advantage", Exact(value=0.21), "<= 0.2", status=Status.WAIVED,
                waiver={"owner": "Ada Lovelace", "reason": "retrained next sprint", "expires": "2099-12-31"},
                message="0.21 misses <= 0.2"),
        finding("explanation.faithfulness", "deletion_gain", Mean(value=0.31, se=0.02, n=256), "> 0", severity=Severity.MEDIUM, evidence=(maps,)),
        finding("explanation.faithfulness", "insertion_gain", Resampled(value=0.09, replicates=replicates, n=256), ">= baseline - 0.01",
                severity=Severity.MEDIUM, status=Status.PASS, interval=(-0.004, 0.012),
                message="0.09: 0.004 against the baseline (95 % interval -0.004 to 0.012, 256 pairs, 31 differ) meets >= baseline - 0.01"),
        finding("privacy.dp_accounting", None, None, None, status=Status.NOT_APPLICABLE,
                message="privacy.dp_accounting needs train_data: the data gives no rows that the model was trained on (train_data)"),
        finding("preflight.model_contract", "determinism", None, ">= 1", status=Status.ERROR, severity=Severity.LOW,
                message="RuntimeError: layer 'fc' broke (in forward, digits.py:31)"),
        finding("privacy.blind", "tpr_at_1_percent_fpr", Proportion(k=12, n=540), "<= 0.05", status=Status.VOID,
                message="the number means nothing: members are told apart by inputs alone (AUC 0.71)", severity=Severity.LOW),
        finding("privacy.audit", "epsilon_lower", Bound(value=1.2, side="lower", level=0.95, n=1000, ceiling=5.6), "<= 3", severity=Severity.LOW),
    )  # fmt: skip
    return s.finish()


_open: list[Stored] = []
GOOD = Proportion(k=540, n=540)
BAD = Proportion(k=100, n=540)
UNSURE = Proportion(k=330, n=540)
WAIVER = {"owner": "Ada", "reason": "accepted for the pilot", "expires": "2099-12-31"}
NASTY = "<script>alert('x')</script> & \"quoted\" | `code` \x1b[31m\x00 \u202e ]]> --> é 漢 😀"


def _passing(s: Stored) -> Run:
    return s.add(finding(estimate=GOOD, required=">= 0.6")).finish()


def _failing(s: Stored) -> Run:
    return s.add(
        finding(estimate=BAD, required=">= 0.6"), finding(metric="clean_accuracy", estimate=GOOD, required=">= 0.6")
    ).finish()


def _undecided(s: Stored) -> Run:
    return s.add(finding(estimate=UNSURE, required=">= 0.6")).finish()


def _broken(s: Stored) -> Run:
    step_error = finding(metric=None, status=Status.ERROR, message="ValueError: no gradient (in run, pgd.py:7)")
    gate_error = finding(
        required=">= 0.6", status=Status.ERROR, message="robust_accuracy was not measured: ValueError: no gradient"
    )
    return s.add(step_error, gate_error).finish()


def _void(s: Stored) -> Run:
    return s.add(
        finding(
            estimate=GOOD, required=">= 0.6", status=Status.VOID, message="the number means nothing: masked gradients"
        )
    ).finish()


def _waived(s: Stored) -> Run:
    return s.add(
        finding(estimate=BAD, required=">= 0.6", status=Status.WAIVED, waiver=WAIVER, message="0.185 misses >= 0.6")
    ).finish()


def _absent(s: Stored) -> Run:
    gone = finding(required=">= 0.6", status=Status.NOT_APPLICABLE, message="needs gradients: the model offers none")
    return s.add(
        gone,
        finding(
            "privacy.dp_accounting",
            "epsilon",
            None,
            "<= 3",
            status=Status.NOT_APPLICABLE,
            message="no record",
            optional=True,
        ),
    ).finish()


def _explored(s: Stored) -> Run:
    return s.add(finding(estimate=GOOD)).finish()


def _empty(s: Stored) -> Run:
    return s.finish()


def _interrupted(s: Stored) -> Run:
    s.add(finding(estimate=GOOD, required=">= 0.6"))
    s.record(s.findings[0], outcome=Outcome(status="completed"))
    return s.close()


def _unstarted(s: Stored) -> Run:
    return s.close()


def _running(s: Stored) -> Run:
    s.add(finding(estimate=GOOD, required=">= 0.6"))
    _open.append(s)  # its lock is what tells a running run from an interrupted one
    return Run(s.writer.path)


def _nasty(s: Stored) -> Run:
    table = s.evidence(
        "robustness.evasion",
        "table",
        "table",
        [NASTY, "b"],
        {"title": NASTY},
        value=np.array([1.5, 2.5]),
        word=np.array([NASTY, "w"]),
    )
    bad = finding(
        estimate=BAD, required=">= 0.6", title=NASTY, message=NASTY, remedy=NASTY, cautions=(NASTY,), params={NASTY: NASTY},
        dims={"class": NASTY}, model=NASTY, evidence=(table,), threat_model=LINF.model_copy(update={"constraints": NASTY}),
    )  # fmt: skip
    waived = finding(
        metric="clean_accuracy",
        estimate=BAD,
        required=">= 0.6",
        status=Status.WAIVED,
        waiver=dict.fromkeys(WAIVER, NASTY),
        message=NASTY,
    )
    return s.add(bad, waived, finding("x.y", "z", GOOD, dims={"group": NASTY}, title=NASTY)).finish()


def _damaged(s: Stored) -> Run:
    run = _failing(s)
    lines = (run.path / "findings.jsonl").read_text().splitlines(keepends=True)
    (run.path / "findings.jsonl").write_text(lines[1])
    return Run(run.path)


SITUATIONS: dict[str, Callable[[Stored], Run]] = {
    "pass": _passing,
    "fail": _failing,
    "inconclusive": _undecided,
    "error": _broken,
    "void": _void,
    "waived": _waived,
    "absent": _absent,
    "explored": _explored,
    "empty": _empty,
    "interrupted": _interrupted,
    "unstarted": _unstarted,
    "running": _running,
    "nasty": _nasty,
    "damaged": _damaged,
}
WORDS = {
    "void": "error", "waived": "pass", "absent": "error", "empty": "explored", "unstarted": "interrupted", "nasty": "fail",
}  # fmt: skip


def situation_in(name: str, path: Path) -> Run:
    """One kind of run, in a fresh folder."""
    nasty = {"scenario": NASTY, "models": {NASTY: {}}} if name == "nasty" else {}
    return SITUATIONS[name](Stored(path, **nasty))


@pytest.fixture(params=list(SITUATIONS))
def situation(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Run]:
    """Every kind of run: its name, and the run."""
    return request.param, situation_in(request.param, tmp_path / "run")


@pytest.fixture
def situation_run(tmp_path: Path) -> Callable[[str], Run]:
    """One kind of run by name."""
    return lambda name: situation_in(name, tmp_path / name)


@pytest.fixture(autouse=True)
def _close_running_runs() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


@pytest.fixture(scope="session")
def _rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rich_run(tmp_path_factory.mktemp("stored") / "rich").path


@pytest.fixture
def rich(_rich: Path, tmp_path: Path) -> Run:
    """A finished run with everything in it, for a test to keep or to damage."""
    return Run(Path(shutil.copytree(_rich, tmp_path / "rich")))


@pytest.fixture(scope="session")
def _pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    s = Stored(tmp_path_factory.mktemp("stored") / "pictured")
    refs = (confusion(s), adversarial_examples(s, 4), attribution_maps(s, 4))
    return s.add(finding("robustness.evasion", "robust_accuracy", BAD, ">= 0.6", evidence=refs)).finish().path


@pytest.fixture
def pictured(_pictured: Path, tmp_path: Path) -> Run:
    """A failed run with pictures and without charts, which take longer."""
    return Run(Path(shutil.copytree(_pictured, tmp_path / "pictured")))


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Stored]:
    """Makes run folders by hand."""

    def make(name: str = "run", **more: Any) -> Stored:
        return Stored(tmp_path / name, **more)

    return make


@pytest.fixture
def make() -> Any:
    """This file's makers of findings and evidence, for tests to call."""
    import types

    found = {name: value for name, value in globals().items() if callable(value)}
    return types.SimpleNamespace(**found, words=WORDS, classes=CLASSES, nasty=NASTY, linf=LINF)
