"""What the worker process does: open a registered model, and predict, explain or attack one input. The dashboard itself imports none of it.

A request is plain JSON and so is the answer; maps and adversarial examples are stored as evidence in a folder that the request names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.registry.store import Registry
from audit.run_folder import EvidenceWriter, RunWriter

SEED = 0


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request asks.

    Args:
        request: ``do`` (`look`, `explain`, `attack`), ``home``, ``model``, ``digest``; ``data``, a scenario file whose rows are at hand;
            ``input``: ``{row: 3}`` of them, ``{file: PATH, row: 0}``, or ``{text: …}``; ``out``, a folder to make.

    Raises:
        UserError: the model cannot be opened, or is not fed such an input.
    """
    model = _opened(request["home"], request["model"], request["digest"])
    source = _source(request["home"], request["model"], request["digest"], request["data"]) if request["data"] else None
    chosen, among = _input(model, source, request["input"])
    match request["do"]:
        case "look":
            return {"rows": among, **_looked(model, chosen)}
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


def _input(model: AuditedModel, source: AuditData | None, given: Mapping[str, Any]) -> tuple[Inputs, int]:
    """One input, and among how many it was."""
    if "text" in given:
        found = InputReader(model).read([], [given["text"]])
    elif "file" in given:
        found = InputReader(model, resize=True, missing=True).read([Path(given["file"])])
    elif source is not None:
        found = source_rows(source)
    else:
        raise UserError("there is no data to take a row from")
    place = int(given.get("row", 0))
    if not 0 <= place < len(found):
        raise UserError(f"there are {len(found):,} rows, 0 to {len(found) - 1:,}")
    return found.take([place]), len(found)


def _looked(model: AuditedModel, chosen: Inputs) -> dict[str, Any]:
    """An input as a person edits it: a text, or the cells of a row, None where one is missing."""
    from audit.text import decode

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


def _explained(
    model: AuditedModel, source: AuditData | None, chosen: Inputs, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Prediction, and a map by each explainer; an explainer that cannot say why leaves the others theirs."""
    out = Path(request["out"])
    background = background_rows(None, source, model, missing=False, seed=SEED) if source is not None else None
    target = class_named(request["target"], model) if request["target"] is not None else None
    plain = Session(model, request["model"], [], background, target, quality=False, seed=SEED)
    asked, _ = plain.explained(chosen, out / "scratch")
    said, facts = plain.said(chosen, asked, 0)
    found: dict[str, Any] = {
        "said": said, "facts": facts, "notes": list(chosen.notes), "name": chosen.names[0], "maps": [], "problems": [],
        "prediction": asked.subject.prediction[0].item(),
        "target": int(asked.subject.target[0]),
        "probabilities": (
            model.probabilities_of(asked.answers)[0].tolist()
            if model.task == "classification" and model.output in ("logit", "margin", "probability")
            else None
        ),
    }  # fmt: skip
    for number, (label, name, one) in enumerate(chosen_explainers(request["explainers"], [])):
        if absent := sorted(one.needs - model.capabilities):
            found["problems"].append(f"{label} needs {', '.join(absent)}: model '{model.name}' does not offer it")
            continue
        session = replace(plain, chosen=[(label, name, one)])
        try:
            _, rows = session.explained(chosen, out / f"scratch-{number}")
        except UserError as error:
            found["problems"].append(f"{label}: {str(error).removesuffix('; give some with --background')}")
            continue
        ((row, meta),) = rows[0]
        writer = EvidenceWriter(out, out / "maps" / str(number), meta.pop("kind"), meta)
        writer.append(chosen.batch.ids, **{key: [value] for key, value in row.items() if key not in ("id", "method")})
        found["maps"].append({"label": label, "path": writer.ref.path})
    return found


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
    with RunWriter(Path(request["out"]), {"scenario": "live"}, "") as writer:
        ctx = Context(seed=SEED, check_id="", step="live", writer=writer, open_model=no_other)
        attack = attack.fit(model, data, ctx)
        threat = _threat(model, attack, x, alone, request)
        outcome = run_attack(Rows(model, x, y, chosen.batch.ids, threat, ctx), name, attack, 1, lambda done: None)
    return {
        "broken": bool(outcome.success[0]),
        "refused": bool(outcome.refused[0]),
        "queries": int(outcome.queries[0]),
        "constraints": threat.constraints,
        "answer": model.classes[int(y[0])],
        "example": outcome.examples[0].path if outcome.examples else None,
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
