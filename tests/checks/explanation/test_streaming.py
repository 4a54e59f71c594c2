"""A whole data set is explained in constant memory: rows go to evidence files as they come, and are read one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_MEASURE = """
import json, resource, sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import audit.model
from audit.datasets._arrays import from_arrays
from audit.engine import Observer, run
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.report._attribution import AttributionReader
from audit.scenario import parse

SCENARIO = '''
name: stream
model: m
data: {source: given}
threads: 1
checks:
  - explanation.completeness: {explainer: {integrated_gradients: {steps: 2, max_steps: 2}}, samples: %d, keep: %d}
    require: {complete: ">= 0"}
'''

class Watching(Observer):
    def __init__(self):
        self.said = []

    def progress(self, step, done, total, what):
        self.said.append((done, total))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def explained(n, home):
    watching = Watching()
    report = run(parse(SCENARIO % (n, n)), home=home, models={"m": model}, data=data, observer=watching)
    (finding,) = [f for f in report.findings if f.gated]
    evidence = report.stored.evidence(next(ref for ref in finding.evidence if ref.kind == "attributions"))
    reader = AttributionReader(evidence.meta, (0.0, 1.0))
    read = [reader.sample(evidence.row(i)) for i in range(0, n, n // 10)]
    return {"peak": peak(), "rows": len(evidence), "n": finding.estimate.n, "progress": watching.said, "read": len(read)}

audit.model.REMEMBERED_BYTES = 1 << 20  # what checks share of a run has a bound of its own
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.Softplus(), nn.Flatten(), nn.Linear(144, 10)).eval()
for parameter in net.parameters():
    parameter.requires_grad_(False)
x = np.random.default_rng(0).uniform(0, 1, (10_000, 1, 28, 28)).astype(np.float32)
spec = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 28, 28), bounds=(0.0, 1.0)),))
model = AuditedModel(
    name="m", digest="m", task="classification", classes=tuple("0123456789"), spec=spec, output="logit",
    capabilities=implied("logit", gradients=True, layers=True), forward=net, module=net, micro_batch=256,
)
data = from_arrays(x, np.zeros(len(x), dtype=int), bounds=(0, 1), classes=tuple("0123456789"))
print(json.dumps([explained(n, Path(sys.argv[1])) for n in (1_000, 10_000)]))
"""


def test_ten_thousand_maps_are_explained_and_kept_in_constant_memory(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text(_MEASURE)
    done = subprocess.run([sys.executable, script, tmp_path / "home"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout.splitlines()[-1])
    assert (few["rows"], many["rows"], many["n"], many["read"]) == (1_000, 10_000, 10_000, 10)
    assert many["progress"][-1] == [10_000, 10_000]
    assert len(many["progress"]) > 100, "progress moves with the chunks"
    maps = 10_000 * 28 * 28 * 8 // 1024
    grown = many["peak"] - few["peak"]
    assert grown < maps / 3, f"the peak grew by {grown:,} KB, all maps together are {maps:,} KB"
