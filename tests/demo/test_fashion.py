"""Fashion-MNIST: a net that learnt its rows by heart leaks them, the same net with differential privacy does not; one scenario tells."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.datasets.idx import read_idx
from audit.demo.fashion import cnn
from audit.demo.privacy import PRIVACY
from audit.engine import run
from audit.finding import Finding
from audit.parameters import UserError
from audit.plan import bind
from audit.privacy.blind_control import BlindAuc
from audit.registry.store import Registry
from audit.scenario import parse, read
from audit.scenario.marked_yaml import dump_yaml
from audit.train.training import train
from audit.train.training_file import bind_training, read_training

ROOT = Path(__file__).parent.parent.parent
SCENARIO = ROOT / "scenarios" / "privacy.yaml"
FASHION = Path("/usr/share/datasets/fashion-mnist")
NEEDED = pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
PAIR = ("fashion-plain", "fashion-private")
MEMBERS = 1000


def test_the_pair_differs_in_its_training_alone() -> None:
    plain, private = (read_training(ROOT / "trainings" / f"{name}.yaml").training for name in PAIR)
    scenario = read(SCENARIO).scenario
    assert plain.data == private.data == scenario.data
    assert (plain.factory, plain.kwargs) == (private.factory, private.kwargs)
    assert plain.dp is None
    assert private.dp is not None
    assert private.dp.epsilon is not None
    assert private.dp.epsilon <= 3
    assert private.dp.delta < 1 / 2000
    assert (plain.seed, private.seed) == (None, None)


def test_the_net_scales_its_pixels_itself() -> None:
    torch.manual_seed(0)
    net, x = cnn().eval(), torch.rand(3, 1, 28, 28) * 255
    assert net(x).shape == (3, 10)
    assert torch.equal(net(x), net.head(net.features(x / 127.5 - 1)))
    assert sum(p.numel() for p in cnn(4).parameters()) < sum(p.numel() for p in net.parameters())


def _excerpt(folder: Path) -> Path:
    """An IDX folder of `MEMBERS` rows to train on, as many to test on, and as many further ones."""
    for part, rows in (("train", 2 * MEMBERS), ("t10k", MEMBERS)):
        for what in ("images-idx3", "labels-idx1"):
            array = read_idx(FASHION / f"{part}-{what}-ubyte.gz")[:rows]
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{what}-ubyte").write_bytes(head + array.tobytes())
    return folder


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Finding]]:
    """What the scenario's membership check finds in each of the pair, on fewer rows; seeded, so that it is always the same."""
    home, data = tmp_path_factory.mktemp("home"), _excerpt(tmp_path_factory.mktemp("fashion"))
    Registry(home).trust.allow_package("audit.demo")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        even = BlindAuc(
            0.5, 100, 100, ("boosted trees", "boosted trees")
        )  # the control takes long, and has tests of its own
        patch.setattr("audit.privacy.blind_control.blind_auc", lambda *rows, **options: even)
        for name, changes in (("fashion-plain", {"epochs": 40}), ("fashion-private", {"epochs": 10, "batch": 250})):
            raw: dict[str, Any] = {**read(ROOT / "trainings" / f"{name}.yaml").raw, **changes, "seed": 1}
            raw["data"] |= {"path": str(data), "members": MEMBERS}
            if raw["dp"] != "off":
                raw["dp"] |= {"gradients": "functorch", "accountant": "rdp"}
            train(bind_training(parse(dump_yaml(raw), name)), Registry(home), home / name)
            scenario = read(SCENARIO).raw
            (entry,) = (e for e in scenario["checks"] if "privacy.membership_inference" in e)
            entry["privacy.membership_inference"] |= {"references": 1}
            text = dump_yaml({**scenario, "model": name, "data": raw["data"], "checks": [entry]})
            found[name] = {f.id.split("/")[1]: f for f in run(parse(text), home=home).findings}
    return found


@NEEDED
def test_the_overfitted_net_leaks_and_the_private_one_does_not(findings: dict[str, dict[str, Finding]]) -> None:
    plain, private = (findings[name]["tpr_at_fpr[fpr=0.01]"] for name in PAIR)
    assert plain.interval is not None
    assert private.interval is not None
    (low, _), (private_low, private_high) = plain.interval, private.interval
    assert low is not None
    assert private_low is not None
    assert private_high is not None
    assert low > 0.01, "more than chance"
    assert private_low <= 0.01 <= private_high, "chance"
    assert private_high < low


@NEEDED
def test_the_scenario_tells_them_apart(findings: dict[str, dict[str, Finding]]) -> None:
    gated = {name: {f.id: str(f.status) for f in found.values() if f.gated} for name, found in findings.items()}
    assert set(gated["fashion-plain"].values()) == {"fail"}
    assert set(gated["fashion-private"].values()) == {"pass"}


def test_where_the_images_are_missing_the_way_to_them_is_told(tmp_path: Path) -> None:
    exhibit = PRIVACY[0]
    plan = bind(read(SCENARIO, [f"data.path={tmp_path / 'none'}"]))
    with pytest.raises(UserError, match=r"install Debian's dataset-fashion-mnist .* audit demo --only privacy-digits"):
        exhibit.prepare(Registry(tmp_path), plan)
