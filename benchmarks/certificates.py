"""What certificates cost and how much they prove: interval and CROWN bounds beside PGD-40, on the demo's digits network.

The truth lies between certified and attacked accuracy. auto_LiRPA, the usual reference, is no contender here: its release on PyPI
(0.3) does not import with current NumPy and torch.

    python benchmarks/certificates.py [--rows 20] [--eps 0.05 0.1 0.2] [--threads 1]
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
import torch
from sklearn.datasets import load_digits

from audit.attacks.pgd import Pgd
from audit.certificates._tracing import traced_layers
from audit.certificates.margins import certified_margins
from audit.data import Batch, row_ids
from audit.demo.digits import train
from audit.finding import ThreatModel
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.rng import ExampleRng

BOUNDS = (0.0, 16.0)


def main() -> None:
    """Print one line per eps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s), {options.rows} digits, linf")

    bunch = load_digits()
    images = bunch.data.reshape(-1, 1, 8, 8).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    test, members = order[: options.rows], order[500:]
    net = train(Batch(images[members], labels[members], row_ids(images[members], labels[members]), {}), epochs=5)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    model = AuditedModel(
        name="digits", digest="digits", task="classification", classes=tuple("0123456789"),
        spec=InputSpec(fields=(Field(name="image", kind="image", shape=(1, 8, 8), bounds=BOUNDS),)),
        output="logit", capabilities=implied("logit", gradients=True, layers=True), forward=net, module=net,
    )  # fmt: skip
    x, y = torch.from_numpy(images[test]), torch.from_numpy(labels[test])
    right = model.predict(x) == y
    x, y = x[right], y[right]
    layers = traced_layers(net, x)
    ids = [str(i) for i in range(len(x))]

    for eps in options.eps:
        seconds, share = {}, {}
        for name in ("ibp", "crown"):
            start = time.process_time()
            margins = certified_margins(layers, x, y, "linf", eps, BOUNDS, crown=name == "crown")
            seconds[name], share[name] = time.process_time() - start, int((margins[name] > 0).sum())
        threat = ThreatModel(access="white_box", norm="linf", eps=eps, bounds=BOUNDS)
        start = time.process_time()
        found = Pgd().run(model, x, y, threat, ExampleRng(0, "benchmark", ids, "attack"))
        seconds["pgd"], share["pgd"] = time.process_time() - start, int((model.predict(found.x) == y).sum())
        print(
            f"eps {eps:<5g}"
            + "".join(
                f"  {n}: {share[n]:>3} of {options.rows} hold, {seconds[n]:6.2f} s CPU" for n in ("ibp", "crown", "pgd")
            )
        )


if __name__ == "__main__":
    main()
