"""A training that is killed, at any moment, goes on where it was, has counted what it released, and spends no more than planned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit.privacy.accounting import read_training_record
from audit.train.ledger import Accounting

EVERY, STEPS = 5, 18
"""As the training file below has it."""
CHILD = '''
import os, signal, sys
from pathlib import Path
import torch
from audit.registry.store import Registry
from audit.scenario import parse
from audit.privacy import history
from audit.train import checkpoint, loop, training
from audit.train.canaries import GradientCanaries
from audit.train.training_file import bind_training

HOME = Path(sys.argv[1])
FILE = """
name: m
factory: trainable:Softmax
data: {source: sklearn.digits, split: {test: 0.3}}
steps: 18
batch: 100
checkpoint_steps: 5
checkpoint_seconds: 9999
sampler: SAMPLER
optimiser: {adam: {lr: 0.01}}
dp: {noise_multiplier: 2, delta: 1e-4, accountant: rdp, gradients: hooks CANARIES}
"""

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(holder, name, count):
    usual, seen = getattr(holder, name), []
    def counted(*args, **kwargs):
        out = usual(*args, **kwargs)
        seen.append(0)
        if len(seen) == count:
            die()
        return out
    setattr(holder, name, counted)

def half_written():
    """The second checkpoint is cut off in the middle of its file."""
    usual, seen = checkpoint.write_whole, []
    def cut(path, content):
        if path.name != "checkpoint.pt":
            return usual(path, content)
        seen.append(0)
        if len(seen) == 2:
            path.with_name(path.name + ".new").write_bytes(content[: len(content) // 2])
            die()
        usual(path, content)
    checkpoint.write_whole = cut

def cut_line():
    """The journal's line is cut off: its release was never made."""
    usual, seen = checkpoint.TrainingFolder._append, []
    def cut(self, line):
        seen.append(0)
        if len(seen) == 10:
            os.write(self._journal, line[:2])
            die()
        usual(self, line)
    checkpoint.TrainingFolder._append = cut

MOMENTS = {
    "before the first checkpoint": lambda: after(loop.Trainer, "move", 3),
    "between the count and the release": lambda: after(checkpoint.TrainingFolder, "release", 8),
    "within the line of the journal": cut_line,
    "within a checkpoint": half_written,
    "after a checkpoint": lambda: after(checkpoint.TrainingFolder, "save", 2),
    "after the last step": lambda: after(loop.Trainer, "move", 18),
    "with the model written": lambda: after(training, "published", 1),
    "nowhere": lambda: None,
}

def trained(name, moment):
    text = FILE.replace("SAMPLER", "shuffle" if "shuffled" in name else "poisson")
    text = text.replace("CANARIES", "" if "shuffled" in name else ", canaries: 50")
    child = os.fork() if moment else 0
    if not child:
        MOMENTS.get(moment, list)()
        registry = Registry(HOME / name)
        registry.trust.allow_package("trainable")
        training.train(bind_training(parse(text, "t.yaml")), registry, HOME / name / "out")
        if not moment:
            return 0
        os._exit(0)
    return os.waitpid(child, 0)[1]

trained("warm", "")  # imports what the forks then share
for moment in [*MOMENTS, "shuffled: after a checkpoint"]:
    killed = trained(moment, moment.removeprefix("shuffled: "))
    journal = HOME / moment / "out" / "journal.txt"
    counted = len(journal.read_bytes().split(b"\\n")[1:-1])
    saved = HOME / moment / "out" / "checkpoint.pt"
    lost = counted - torch.load(saved, weights_only=True)["releases"] if saved.exists() else counted
    print(f"{moment}|{os.WTERMSIG(killed)}|{counted}|{lost}|{trained(moment, 'nowhere')}", flush=True)
'''


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, Path]]:
    """Killed once at each moment, then run to the end: signal, releases counted when it was killed, folder."""
    home = tmp_path_factory.mktemp("killed")
    tests = Path(__file__).parent.parent
    told = subprocess.run(
        [sys.executable, "-c", CHILD, str(home)],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
    )
    found = {}
    for line in told.stdout.splitlines():
        moment, killed, counted, lost, code = line.split("|")
        assert code == "0", told.stderr
        assert int(lost) <= (0 if moment == "with the model written" else EVERY)
        found[moment] = int(killed), int(counted), home / moment / "out"
    assert len(found) == 9, told.stderr
    return found


COUNTED = {
    "before the first checkpoint": 3,
    "between the count and the release": 8,
    "within the line of the journal": 8,  # the header is a line, too
    "within a checkpoint": 10,
    "after a checkpoint": 10,
    "after the last step": STEPS,
    "with the model written": STEPS,
    "nowhere": 0,
    "shuffled: after a checkpoint": 10,
}


@pytest.mark.parametrize("moment", list(COUNTED))
def test_what_was_released_is_counted_once_and_the_end_is_as_planned(
    homes: dict[str, tuple[int, int, Path]], moment: str
) -> None:
    killed, counted, folder = homes[moment]
    assert killed == (0 if moment == "nowhere" else signal.SIGKILL)
    assert counted == COUNTED[moment]
    record = read_training_record(folder / "privacy.json")
    assert record.steps == STEPS, "no step is made up for, none is forgotten"
    assert record.claim is not None
    shuffled = moment.startswith("shuffled")
    planned = Accounting(1 / 13, 2, 1e-4, "gaussian") if shuffled else Accounting(100 / 1258, 2, 1e-4, "rdp")
    assert record.claim.epsilon == planned.spent(STEPS)[0], "of an undisturbed training"
    parts = [stretch.steps for stretch in record.stretches]
    assert parts == ([STEPS] if counted in (0, STEPS) else [counted, STEPS - counted])
    steps = [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert steps == [13, STEPS]
    assert not (folder / "checkpoint.pt").exists()
