"""A home with registered models, for pages that ask them: a digit reader that answers, hangs, crashes or hoards by its input, a text
classifier, and a table."""

from __future__ import annotations

import sys
from pathlib import Path

from toys import trained_cnn

from audit.model import Field, InputSpec
from audit.registry.store import Registry

MODULE = "moody_nets"
CODE = """\
import os, time

import torch
from toys import SmallCnn


class Moody(SmallCnn):
    \"\"\"Reads digits; a picture of one single ink tells it to misbehave.\"\"\"

    def forward(self, x):
        if x.shape[0] and bool((x == x.flatten()[0]).all()):
            match float(x.detach().flatten()[0]):
                case 16.0:
                    while True:
                        pass
                case 15.0:
                    os.abort()
                case 14.0:
                    torch.ones(10**13)
                case 13.0:
                    raise RuntimeError("no digit")
        slow = float(os.environ.get("MOODY_SECONDS", 0))
        if slow:
            time.sleep(slow)
        return super().forward(x)
"""
REVIEWS = ["a great film I loved", "a terrible waste of time", "wonderful acting", "awful boring plot"] * 5


def make(folder: Path) -> Path:
    """Register the models below a folder; gives the home. The folder goes on the import path, where the worker finds it too."""
    import skops.io
    from safetensors.torch import save_file
    from sklearn.datasets import load_iris
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    (folder / f"{MODULE}.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    registry = Registry(folder / "home")
    for package in ("toys", MODULE):
        registry.trust.allow_package(package)
    save_file(trained_cnn().state_dict(), folder / "cnn.safetensors")
    image = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0, 16), units="ink"),))
    registry.add(
        "digits", folder / "cnn.safetensors", parameters={"factory": f"{MODULE}:Moody"}, spec=image,
        classes=[str(i) for i in range(10)], output="logit", task="classification",
    )  # fmt: skip
    mood = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(REVIEWS, [1, 0, 1, 0] * 5)
    skops.io.dump(mood, folder / "mood.skops")
    text = InputSpec(fields=(Field(name="review", kind="text", shape=(80,)),))
    registry.add("mood", folder / "mood.skops", spec=text, classes=["negative", "positive"])
    iris = load_iris(as_frame=True)
    columns = InputSpec(fields=tuple(Field(name=name, kind="number", units="cm") for name in iris.data.columns))
    skops.io.dump(LogisticRegression(max_iter=1000).fit(iris.data, iris.target), folder / "iris.skops")
    registry.add("iris", folder / "iris.skops", spec=columns, classes=list(iris.target_names))
    skops.io.dump(Ridge().fit(iris.data.iloc[:, :3], iris.data.iloc[:, 3]), folder / "width.skops")
    registry.add("width", folder / "width.skops", spec=InputSpec(fields=columns.fields[:3]))
    return folder / "home"
