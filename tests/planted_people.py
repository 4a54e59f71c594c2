"""People whose job says little of anything, and networks that remember it or never see it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from planted_tables import table_model
from torch import Tensor, nn

from audit.data import AuditData
from audit.datasets._arrays import from_arrays
from audit.model import AuditedModel

JOBS = ("cook", "nurse", "clerk", "smith")


@cache
def people(n: int = 300) -> AuditData:
    """`n` test rows and as many members: three numbers, a job that is independent of them, a label with much noise."""
    rng = np.random.default_rng(0)
    numbers, job = rng.normal(size=(2 * n, 3)), rng.integers(0, len(JOBS), 2 * n)
    label = (numbers[:, 0] + 0.5 * (job == 1) + 2 * rng.normal(size=2 * n) > 0).astype(int)
    x = np.column_stack([numbers, job])
    return from_arrays(
        x[:n], label[:n], x_train=x[n:], y_train=label[n:], feature_names=["a", "b", "c", "job"],
        categories={"job": JOBS}, classes=["no", "yes"],
    )  # fmt: skip


class JobNet(nn.Module):
    """A wide layer on the numbers and, where it may see it, the job."""

    def __init__(self, sees_job: bool) -> None:
        super().__init__()
        self.weight = 4.0 if sees_job else 0.0
        self.net = nn.Sequential(nn.Linear(3 + len(JOBS), 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, x: Tensor) -> Tensor:
        job = nn.functional.one_hot(x[:, 3].long(), len(JOBS)).float() * self.weight
        return self.net(torch.cat([x[:, :3].float(), job], dim=1))


def overfitted(sees_job: bool) -> AuditedModel:
    """A net that has learnt its members by heart, noise and all; one that remembers nothing of other tests."""
    net = _network(sees_job)
    return table_model(net, people().spec, classes=people().classes, output="logit", module=net)


@cache
def _network(sees_job: bool) -> JobNet:
    members = people().train
    assert members is not None
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = JobNet(sees_job)
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-2)
        for _ in range(300):
            loss = nn.functional.cross_entropy(net(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval().requires_grad_(False)
