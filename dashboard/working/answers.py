"""What the worker process does: open a registered model, and predict, explain or attack one input. The dashboard itself imports none of it.

A request is plain JSON and so is the answer; maps and adversarial examples are stored as evidence in a folder that the request names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audit.attacks import Attack
from audit.checks.robustness._attack_list import built
from audit.checks.robustness._attacked import Rows, run_attack
from audit.checks.robustness._inputs import declared_bounds, require_inside
from audit.cli.explain import background_rows, class_named, source_rows
from audit.cli.explain_choice import chosen_explainers
from audit.cli.explain_inputs import InputReader, Inputs, data_of
from audit.cli.explain_session import Session, no_other
from audit.context import Context
from audit.data import AuditData, Batch
from audit.finding import ThreatModel
from audit.language import gettext as _
from audit.language import speaking
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.registry.store import Registry
from audit.run_folder import Evidence, EvidenceWriter, RunWriter
from audit.text import decode
from dashboard.working.viewing import bends, viewed

SEED = 0
QUICK = {"integrated_gradients": {"max_steps": 50}}
"""Parameters of explainers for inputs of many elements: an answer that comes soon, whose own error is told, before one that is exact."""
MANY = 10_000
"""Elements of such an input."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request asks.

    Args:
        request: ``do`` (`open`, `look`, `predict`, `explain`, `attack`), ``home``, ``model``, ``digest``; ``data``, a scenario file whose
            rows are at hand; ``input``: ``{row: 3}`` of them, ``{file: PATH, row: 0, crop: false}``, ``{text: …}``, or ``{stored: PATH,
            sample: ID, field: x}`` of evidence; ``out``, a folder to make; ``language``, that of the reader, where sentences are asked for.

    Raises:
        UserError: the model cannot be opened, or is not fed such an input.
    """
    with speaking(request.get("language", "en")):
        return _answer(request)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    model = _opened(request["home"], request["model"], request["digest"])
    source = _source(request["home"], request["model"], request["digest"], request["data"]) if request["data"] else None
    if request["do"] == "open":
        return {}
    chosen, among = _input(model, source, request["input"], Path(request["out"]) / "given")
    match request["do"]:
        case "look":
            return {"rows": among, "bent": _bent(model, request["input"]), **_looked(model, chosen)}
        case "predict":
            return {"rows": among, **_predicted(model, request["model"], chosen, Path(request["out"]))}
        case "explain":
            return _explained(model, source, chosen, request)
        case "attack":
            return _attacked(model, source, chosen, request)
    raise UserError(f"nobody knows how to '{request['do']}'")


@lru_cache(maxsize=1)
def _opened(home: str, ref: str, digest: str) -> AuditedModel:
    """The digest tells a model that was registered anew from the one that was opened before."""
    return Registry(home).open(ref)


@lru_cache(maxsize=2)
def _source(home: str, ref: str, digest: str, data: str) -> AuditData:
    return data_of(data, _opened(home, ref, digest))


# --- the input ---------------------------------------------------------------------------------------------------


def _input(model: AuditedModel, source: AuditData | None, given: Mapping[str, Any], out: Path) -> tuple[Inputs, int]:
    """One input, and among how many it was."""
    if "stored" in given:
        return _stored(model, given, out), 1
    if "text" in given:
        found = InputReader(model).read([], [given["text"]])
    elif "file" in given:
        path, notes = viewed(Path(given["file"]), model, out, crop=bool(given.get("crop")))
        found = InputReader(model, resize=True, missing=True).read([path])
        found = replace(found, notes=(*notes, *found.notes))
    elif source is not None:
        found = replace(source_rows(source), notes=())  # the page says where they are from
    else:
        raise UserError(_("there is no data to take a row from"))
    place = int(given.get("row", 0))
    if not 0 <= place < len(found):
        raise UserError(
            _("there is no row {row}: choose one of 0 to {last}").format(row=f"{place:,}", last=f"{len(found) - 1:,}")
        )
    return found.take([place]), len(found)


def _stored(model: AuditedModel, given: Mapping[str, Any], out: Path) -> Inputs:
    """A row of evidence as the model is fed it, under its own id: explainers draw the numbers for it that they drew before."""
    evidence = Evidence(Path(given["stored"]))
    if given["sample"] not in evidence.ids:
        raise UserError(_("no sample '{sample}' is stored there").format(sample=given["sample"]))
    row = evidence.row(evidence.ids.index(given["sample"]))
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "stored.npy", row[given["field"]])
    try:
        found = InputReader(model, missing=True).read([out / "stored.npy"])
    except UserError as error:
        raise UserError(str(error).replace(str(out / "stored.npy"), _("the stored sample"))) from error
    if len(found) != 1:
        raise UserError(
            _("the stored sample has shape {shape}, model '{model}' takes {wanted}").format(
                shape=row[given["field"]].shape, model=model.name, wanted=tuple(model.spec.shape)
            )
        )
    labels = np.atleast_1d(row["label"]) if "label" in row else found.batch.labels
    return Inputs(Batch(found.batch.x, labels, (given["sample"],)), (given["sample"],), "label" in row, found.notes)


def _bent(model: AuditedModel, given: Mapping[str, Any]) -> bool:
    """Whether a picture's sides are stretched for the model."""
    return "file" in given and bends(Path(given["file"]), model)


def _looked(model: AuditedModel, chosen: Inputs) -> dict[str, Any]:
    """An input as a person edits it: a text, or the cells of a row, None where one is missing."""
    row, spec = chosen.batch.x[0], model.spec
    if spec.kind == "text":
        return {"text": decode(row)}
    if not spec.tabular:
        return {}
    cells = {}
    for field, value in zip(spec.fields, row.tolist(), strict=True):
        missing = value != value
        cells[field.name] = None if missing else field.categories[int(value)] if field.kind == "category" else value
    return {"cells": cells}


# --- prediction and maps -----------------------------------------------------------------------------------------


def _predicted(model: AuditedModel, ref: str, chosen: Inputs, out: Path) -> dict[str, Any]:
    """What the model answers, and the input as it was fed, as evidence."""
    asked = _session(model, ref).explained(chosen, out / "scratch")[0]
    several = model.task == "classification"
    writer = EvidenceWriter(
        out, out / "input", "attributions", {"input_kind": model.spec.kind, "classes": list(model.classes)}
    )
    writer.append(chosen.batch.ids, x=chosen.batch.x)
    shares = several and model.output in ("logit", "margin", "probability")
    return {
        "prediction": asked.subject.prediction[0].item(),
        "label": chosen.batch.labels[0].item() if chosen.labelled else None,
        "confidence": float(asked.chances[0]) if asked.chances is not None else None,
        "probabilities": model.probabilities_of(asked.answers)[0].tolist() if shares else None,
        "notes": list(chosen.notes),
        "input": writer.ref.path,
    }  # fmt: skip


def _session(model: AuditedModel, ref: str, background: Batch | None = None, target: int | None = None) -> Session:
    return Session(model, ref, [], background, target, quality=False, seed=SEED)


def _explained(
    model: AuditedModel, source: AuditData | None, chosen: Inputs, request: Mapping[str, Any]
) -> dict[str, Any]:
    """The map of one explainer for one class."""
    out = Path(request["out"])
    background = background_rows(None, source, model, missing=False, seed=SEED) if source is not None else None
    target = class_named(request["target"], model) if request["target"] is not None else None
    name = request["explainer"]
    quick = QUICK.get(name) if math.prod(model.spec.shape) >= MANY else None
    (label, known, one) = chosen_explainers([json.dumps({name: quick})] if quick else [name], [])[0]
    if absent := sorted(one.needs - model.capabilities):
        raise UserError(f"{label} needs {', '.join(absent)}: model '{model.name}' does not offer it")
    session = replace(_session(model, request["model"], background, target), chosen=[(label, known, one)])
    try:
        rows = session.explained(chosen, out / "scratch")[1]
    except UserError as error:
        raise UserError(f"{label}: {str(error).removesuffix('; give some with --background')}") from error
    ((row, meta),) = rows[0]
    writer = EvidenceWriter(out, out / "map", meta.pop("kind"), meta)
    writer.append(chosen.batch.ids, **{key: [value] for key, value in row.items() if key not in ("id", "method")})
    return {"path": writer.ref.path, "method": str(row["method"]), "quick": quick is not None}


# --- attack ------------------------------------------------------------------------------------------------------


def _attacked(
    model: AuditedModel, source: AuditData | None, chosen: Inputs, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Seek an input near this one that the model answers otherwise; whether it counts is asked of the model again."""
    if model.task != "classification":
        raise UserError("an attack changes a class, and this model gives a number")
    ((name, attack),) = built([request["attack"]]).items()
    if absent := sorted(attack.needs - model.capabilities):
        raise UserError(f"attack '{name}' needs {', '.join(absent)}: model '{model.name}' does not offer it")
    x = model.tensor(chosen.batch)
    y = model.labels_of(model.scores(x))
    batch = Batch(chosen.batch.x, y.cpu().numpy(), chosen.batch.ids)
    alone = AuditData("this input", batch, model.spec, model.classes)
    data = replace(source, test=batch) if source is not None else alone
    with RunWriter(Path(request["out"]) / "run", {"scenario": "live"}, "") as writer:
        ctx = Context(seed=SEED, check_id="", step="live", writer=writer, open_model=no_other)
        attack = attack.fit(model, data, ctx)
        threat = _threat(model, attack, x, alone, request)
        outcome = run_attack(Rows(model, x, y, chosen.batch.ids, threat, ctx), name, attack, 1, lambda done: None)
    return {
        "broken": bool(outcome.success[0]),
        "refused": bool(outcome.refused[0]),
        "queries": int(outcome.queries[0]),
        "constraints": threat.constraints,
        "size": float(outcome.size[0]) if bool(outcome.success[0]) else None,
        "answer": model.classes[int(y[0])],
        "example": f"run/{outcome.examples[0].path}" if outcome.examples else None,
    }


def _threat(
    model: AuditedModel, attack: Attack, x: torch.Tensor, alone: AuditData, request: Mapping[str, Any]
) -> ThreatModel:
    if not attack.norms:
        return ThreatModel(
            access=attack.access, bounds=model.spec.bounds, units=attack.counted, constraints=attack.constraints()
        )
    bounds = declared_bounds(model)
    require_inside(x, bounds, model, alone)
    return ThreatModel(
        access=attack.access, norm=request["norm"], eps=request["eps"], bounds=bounds, units=model.spec.units,
        constraints=attack.constraints(),
    )  # fmt: skip
