"""A model behind one interface: micro-batches that fit in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import Linear, audited, digits, trained_cnn

from audit.attacks.pgd import Pgd
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.rng import ExampleRng

FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


def cramped(most: int, message: str = FULL) -> AuditedModel:
    """Digits, on a machine whose memory holds `most` rows."""

    def forward(x: Tensor) -> Tensor:
        if len(x) > most:
            raise RuntimeError(message)
        return trained_cnn()(x)

    return audited(forward, (1, 8, 8), 10, bounds=(0.0, 16.0))


def test_a_batch_that_does_not_fit_in_memory_halves_itself_and_goes_on() -> None:
    x = torch.from_numpy(digits().test.x[:300])
    model = cramped(70)
    assert torch.equal(model.predict(x), trained_cnn()(x).argmax(1))
    assert model.micro_batch == 37, "300 → 150 → 75 → 37"
    with pytest.raises(RuntimeError, match="can't allocate"):
        cramped(0).predict(x)
    with pytest.raises(RuntimeError, match="another thing"):
        cramped(70, "another thing").predict(x)


def test_an_attack_goes_on_in_smaller_batches_and_finds_the_same() -> None:
    test = digits().test
    x, y = torch.from_numpy(test.x[:60]), torch.from_numpy(test.labels[:60])
    threat = ThreatModel(access="white_box", norm="linf", eps=1.0, bounds=(0.0, 16.0))
    found = [
        Pgd(steps=5).run(model, x, y, threat, ExampleRng(0, "c", test.ids[:60], "p")).x
        for model in (cramped(1000), cramped(20))
    ]
    assert (found[0] - found[1]).abs().max() < 1e-3


def test_rows_are_counted_once_however_often_a_batch_was_halved() -> None:
    calls: list[int] = []

    def forward(x: Tensor) -> Tensor:
        calls.append(len(x))
        return Linear([1.0, 1.0], 0.0)(x)

    model = audited(forward, (2,))
    model.micro_batch = 4
    model.scores(torch.zeros(10, 2))
    assert calls == [4, 4, 2]
    assert model.rows_forward == 10


_MEASURE = """
import resource, sys, tempfile
from pathlib import Path
import numpy as np, torch
from torch import nn
from audit import from_arrays
from audit.engine import run
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.scenario import parse

n = int(sys.argv[1])
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 10)).eval()
for parameter in net.parameters():
    parameter.requires_grad_(False)
x = np.random.default_rng(0).uniform(0, 1, (n, 1, 28, 28)).astype(np.float32)
with torch.no_grad():
    y = np.concatenate([net(torch.from_numpy(part)).argmax(1).numpy() for part in np.array_split(x, 20)])
spec = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 28, 28), bounds=(0.0, 1.0)),))
model = AuditedModel(
    name="m", digest="m", task="classification", classes=tuple("0123456789"), spec=spec, output="logit",
    capabilities=implied("logit", gradients=True, layers=True), forward=net, module=net, micro_batch=256,
)
text = '''
name: memory
model: m
data: {source: given}
threads: 1
checks:
  - robustness.evasion: {attacks: [pgd: {steps: 3}], eps: 0.02}
    require: {robust_accuracy: ">= 0"}
'''
with tempfile.TemporaryDirectory() as home:
    report = run(parse(text), home=Path(home), models={"m": model}, data=from_arrays(x, y, bounds=(0, 1), classes=tuple("0123456789")))
(finding,) = [f for f in report.findings if f.gated]
assert finding.estimate.n == n, finding
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_grows_with_the_batch_and_not_with_the_data(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text(_MEASURE)
    few, many = (
        int(subprocess.run([sys.executable, script, str(n)], check=True, capture_output=True, text=True).stdout)
        for n in (1_000, 10_000)
    )
    assert many < 1.5 * few, f"10,000 images took {many / few:.2f} times the peak of 1,000"
