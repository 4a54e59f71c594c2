"""A folder of explanations: per input and explainer a picture and its numbers, and a page that shows them all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import __version__
from audit.finding import canonical_json
from audit.language import gettext as _
from audit.language import speaking
from audit.parameters import UserError
from audit.report._attribution import AttributionReader
from audit.report._evidence import facts_of, legend_of
from audit.report._explanation_picture import picture
from audit.report._sample import Sample
from audit.report._samples import MAX_BYTES, MAX_SAMPLES
from audit.report.html import environment
from audit.run_folder import safe_name, write_atomically

EXPLANATIONS = "audit-explanations"
"""What the manifest calls such a folder."""


@dataclass(frozen=True)
class Method:
    """An explainer of the folder.

    Args:
        label: what tells it from the others of the folder.
        about: the first paragraph of its documentation.
    """

    label: str
    name: str
    parameters: dict[str, Any]
    about: str = ""


@dataclass(frozen=True)
class Explained:
    """One input as the page shows it."""

    name: str
    said: str
    """What the model said of it."""
    samples: Sequence[Sample]
    files: Sequence[str]


@dataclass
class ExplanationFolder:
    """Writes a folder of explanations as they come; `close` adds the page and the manifest.

    Args:
        path: made where there is none; it must be empty.
        about: the model: reference, digest, task, classes, output, spec; and the seed.
        methods: the explainers.
        planned: how many inputs there will be.
        language: of the page; pictures, files and what is printed are English.

    Raises:
        UserError: the folder cannot be made or written, or holds files.
    """

    path: Path
    about: Mapping[str, Any]
    methods: Sequence[Method]
    planned: int
    notes: Sequence[str] = ()
    language: str = "en"
    _page: list[Explained] = field(default_factory=list)
    _inputs: list[dict[str, Any]] = field(default_factory=list)
    _kind: str = ""
    _size: int = 0

    def __post_init__(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if next(self.path.iterdir(), None) is not None:
                raise UserError(f"{self.path} exists and holds files: choose another with --out")
            self._write("running")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Black and white of an image."""
        found = [one.get("bounds") for one in self.about["spec"]["fields"]]
        return (float(found[0][0]), float(found[0][1])) if len(found) == 1 and found[0] else None

    def add(
        self,
        name: str,
        said: str,
        rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
        facts: Mapping[str, Any],
    ) -> str:
        """Write one input.

        Args:
            name: what the user calls it.
            said: what the model said of it, in words.
            rows: of each method, the fields of attribution evidence and its meta.
            facts: what the manifest holds of the input beside that.

        Returns:
            The beginning of the files' names.
        """
        stem = f"{len(self._inputs) + 1:0{len(str(self.planned))}d}-{safe_name(Path(name).stem)[:40]}"
        readers = [AttributionReader(meta, self.bounds, self.about["spec"]["fields"]) for _, meta in rows]
        self._kind = readers[0].kind
        shown = [(one.label, reader, row) for one, reader, (row, _) in zip(self.methods, readers, rows, strict=True)]
        samples: list[Sample] = []
        files, described = [], []
        for (label, reader, row), (_row, meta) in zip(shown, rows, strict=True):
            drawn, stored = (f"{stem}.{safe_name(label)}.{suffix}" for suffix in ("png", "npz"))
            self._draw(drawn, name, said, [(label, reader, row)])
            self._store(stored, row, {**meta, **self.about, "input": name})
            with speaking(self.language):
                sample = reader.sample(row)
            sample.title = label
            if samples:
                sample.pictures = sample.pictures[1:]  # the input stands beside the first
            samples.append(sample)
            files += [drawn, stored]
            described.append({"explainer": label, "picture": drawn, "arrays": stored, **_scalars(row)})
        if len(shown) > 1:
            self._draw(f"{stem}.png", name, said, shown)
            files.insert(0, f"{stem}.png")
        self._inputs.append({"name": name, **facts, "explanations": described})
        size = sum(sample.size for sample in samples)
        if len(self._page) < MAX_SAMPLES and (not self._page or self._size + size <= MAX_BYTES):
            self._page.append(Explained(name, said, samples, files))
            self._size += size
        return stem

    def _draw(
        self, file: str, name: str, said: str, shown: Sequence[tuple[str, AttributionReader, Mapping[str, Any]]]
    ) -> None:
        (self.path / file).write_bytes(picture(f"{name}: {said}", shown, self.bounds))

    def _store(self, file: str, row: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        import numpy as np

        np.savez_compressed(self.path / file, meta=np.array(canonical_json(meta)), **row)

    def close(self, finished: bool) -> None:
        """Write the page and the manifest; of nothing but an unfinished beginning nothing stays."""
        if not finished and not self._inputs:
            (self.path / "manifest.json").unlink(missing_ok=True)
            self.path.rmdir()
            return
        self._write("finished" if finished else "interrupted")
        with speaking(self.language):
            page = self._html(finished)
        write_atomically(self.path / "index.html", page)

    def _write(self, state: str) -> None:
        manifest = {
            "kind": EXPLANATIONS,
            "state": state,
            "audit": __version__,
            **self.about,
            "explainers": [
                {"label": method.label, "name": method.name, "parameters": method.parameters} for method in self.methods
            ],
            "notes": list(self.notes),
            "inputs": self._inputs,
        }
        write_atomically(
            self.path / "manifest.json", json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )

    def _html(self, finished: bool) -> str:
        legend, key = legend_of(self._kind, bool(self.about["classes"]))
        left = len(self._inputs) - len(self._page)
        text: str = (
            environment()
            .get_template("explanations.html.j2")
            .render(
                model=self.about["model"],
                digest=self.about["digest"],
                classes=self.about["classes"],
                facts=[
                    _(str(self.about["task"])),
                    _("explained in {output}").format(output=_(str(self.about["output"]))),
                    _("seed {seed}").format(seed=self.about["seed"]),
                ],
                unfinished=not finished,
                planned=self.planned,
                legend=legend,
                key=key,
                notes=self.notes,
                explainers=[
                    {"label": one.label, "facts": facts_of(one.parameters), "about": one.about} for one in self.methods
                ],
                inputs=self._page,
                left_out=_("{n} further inputs are in the folder and in manifest.json.").format(n=f"{left:,}")
                if left
                else "",
                version=__version__,
            )
        )
        return text.rstrip("\n") + "\n"


def _scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and names of a row that are single."""
    import numpy as np

    single = {key: np.asarray(value) for key, value in row.items() if np.ndim(value) == 0}
    return {key: value.item() for key, value in single.items()}
