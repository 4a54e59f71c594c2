"""What the attacks broke: how much each of them, of which class, and what the broken rows were taken for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from audit.report._evidence import DAMAGE
from audit.report._sample import named
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import safe_name
from dashboard import links
from dashboard.drawing import charts, evidence_charts
from dashboard.parts import stated
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Examples
from dashboard.reading.measured import Number
from dashboard.words import _, ngettext

FAMILY = "robustness."
MOST_CLASSES = 20
"""Classes of a chart: those that are broken most."""
MOST_PAIRS = 30
"""Pairs of classes in a table."""


def attacks_of(found: Sequence[Number], step: str) -> list[str]:
    """Names of the attacks whose numbers a step holds."""
    known = [d for one in found if one.step == step for key, d in one.dims.items() if key in ("attack", "after")]
    return list(dict.fromkeys(known))


def attack_name(one: Number) -> str:
    """The attack that a number is of, or all of them."""
    parts = [value if key == "attack" else _("after {attack}").format(attack=value) for key, value in one.dims.items()]
    return " · ".join(parts) or _("all together")


def step_of(steps: Sequence[str], label: str) -> str:
    """One of several steps; there is nothing to choose where it is one."""
    if len(steps) == 1:
        return steps[0]
    return str(links.select("step", label, list(steps), lambda step: step.removeprefix(FAMILY)))


def success(view: RunView, model: str, found: Sequence[Number], series: Sequence[Examples]) -> None:
    """Which share of the rows each attack breaks, of which class, and for what they are taken."""
    rows = [one for one in found if one.metric == "attack_success" and not set(one.dims) - {"attack", "after"}]
    charts.draw(
        charts.dots(
            [
                stated.dot(one, attack_name(one), one.named)
                for one in sorted(rows, key=lambda one: not one.dims)
            ],
            title=_("Success of each attack"),
            label=_("share of the rightly answered rows that it breaks"),
        ),
        _("Good: all far left. An attack far left of the others adds nothing; the line of all together is the adversary's best.")
        + " "
        + _("Bars and bands are 95 % intervals."),
        key="success-by-attack",
    )  # fmt: skip
    step = step_of(list(dict.fromkeys(one.step for one in rows)), _("Success by class, of"))
    _settings(found, step)
    problems: list[str] = []
    tallies = _tallies(view, model, step, problems)
    _by_class(view, found, step, tallies, problems)
    _mistakes(view, step, tallies, [one for one in series if one.piece.step == step and not one.by], problems)
    stated.told(problems)


def _settings(found: Sequence[Number], step: str) -> None:
    """Which settings stand behind the names of the attacks, where any were given."""
    params = next((one.finding.params for one in found if one.step == step and one.finding is not None), {})
    specs = params.get("attacks")
    said: list[str] = []
    seen = Counter[str]()
    for spec in specs if isinstance(specs, list | tuple) else []:
        name, given = next(iter(spec.items())) if isinstance(spec, Mapping) and spec else (spec, {})
        seen[str(name)] += 1
        called = f"{name}#{seen[name]}" if seen[name] > 1 else str(name)
        told = ", ".join(f"{key} {_plain(value)}" for key, value in (given or {}).items())
        if told:
            said.append(f"{called} ({told})")
    if said:
        st.caption(_("Settings: {attacks}; the others as they come.").format(attacks=plain(clean(", ".join(said)))))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- by class ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tallies:
    """What a step stored of its rows.

    Args:
        names: of the classes, in order.
        by_attack: of each attack by class: rows answered rightly, and how many of them it broke.
        all_together: the same of all attacks.
    """

    names: Sequence[str]
    by_attack: Mapping[str, Mapping[int, tuple[int, int]]]
    all_together: Mapping[int, tuple[int, int]]


def _tallies(view: RunView, model: str, step: str, problems: list[str]) -> _Tallies:
    pieces = [piece for piece in stated.pieces(view, model, "outcomes", f"{FAMILY}evasion") if piece.step == step]
    base = next((piece for piece in pieces if piece.name == "clean"), None)
    names: list[str] = []
    if base is None:
        return _Tallies(names, {}, {})
    if (stored := evidence.opened(view, base, problems)) is not None:
        names = [clean(name) for name in stored.meta.get("classes") or ()]
    counted = {p.name: evidence.per_class(view, p, base, problems) for p in pieces if p.name.startswith("outcomes")}
    return _Tallies(names, counted, counted.get("outcomes", {}))


def _by_class(view: RunView, found: Sequence[Number], step: str, tallies: _Tallies, problems: list[str]) -> None:
    """Success by class and attack: counted from the stored rows, the worst case as it was measured."""
    worst = {one.dims["class"]: one for one in found if one.step == step and set(one.dims) == {"class"}}
    hardest = sorted(worst, key=lambda name: -worst[name].value)[:MOST_CLASSES]
    shown = [name for name in worst if name in hardest]
    place = {name: at for at, name in enumerate(tallies.names)}
    attacks = [a for a in attacks_of(found, step) if safe_name(f"outcomes-{a}") in tallies.by_attack]
    cells: list[tuple[str, str, float, str]] = []
    for name in shown:
        row = f"{name} (n = {worst[name].n:,})" if worst[name].n is not None else name
        for attack in attacks:
            tally = tallies.by_attack[safe_name(f"outcomes-{attack}")].get(place.get(name, -1))
            if tally is not None:
                n, k = tally
                cells.append((row, attack, k / n, _("{k} of {n}").format(k=k, n=n)))
        if len(attacks) != 1:
            cells.append((row, _("all together"), worst[name].value, worst[name].told))
    if not cells:
        return
    left = len(worst) - len(shown)
    more = " " + ngettext(
        "{n} class that is broken less often is left out.", "{n} classes that are broken less often are left out.", left
    ).format(n=f"{left:,}") if left else ""  # fmt: skip
    charts.draw(
        charts.heat(
            cells, title=_("Success by attack and class: {step}").format(step=step.removeprefix(FAMILY)), row_title=_("true class"),
            column_title=_("attack"), label=_("share broken"),
        ),
        _("Good: all cells faint, and none much stronger than those below and above: a class that breaks first is where to look. Few rows (n) say "
          "little.") + more,
        key="success-by-class",
    )  # fmt: skip


# --- what the rows are taken for ---------------------------------------------------------------------------------


def _mistakes(view: RunView, step: str, tallies: _Tallies, series: Sequence[Examples], problems: list[str]) -> None:
    """Of every class, what an attack makes of its rows: the confusion matrix under attack, or the commonest pairs."""
    taken: dict[str, tuple[int, str]] = {}
    for one in series:
        try:
            _taken(one, tallies.names, taken)
        except DAMAGE as error:
            problems.append(evidence.said(view, one.piece, error))
    broken = sum(k for _n, k in tallies.all_together.values())
    if not taken or not broken:
        return
    pairs = Counter((named(label, tallies.names), answer) for label, answer in taken.values())
    told = _("Each of the {n} broken rows counts once.").format(n=f"{broken:,}")
    if len(taken) < broken:
        told = _("Of {n} broken rows {kept} are stored and counted here, each once.").format(
            n=f"{broken:,}", kept=f"{len(taken):,}"
        )
    title = _("What broken rows are taken for: {step}").format(step=step.removeprefix(FAMILY))
    answers = {answer for _true, answer in pairs}
    known = [name for name in tallies.names if name in {true for true, _answer in pairs} | answers]
    if len(known) > MOST_CLASSES or not answers <= set(known):
        _pairs(pairs, title, told)
        return
    cells = []
    for at, (n, k) in tallies.all_together.items():
        true = tallies.names[at]
        if true in known:
            held = n - k
            cells += [(true, true, held, held / n)]
            cells += [(true, answer, count, count / n) for (from_, answer), count in pairs.items() if from_ == true]
    charts.draw(
        evidence_charts.confusion(cells, known).properties(title=title, height=charts.AROUND + 30 * len(known)),
        _("Good: rows on the diagonal only, for those withstood every attack. A strong cell beside it is a pair of classes that a small change "
          "makes into each other.") + " " + told,
        key="mistakes",
    )  # fmt: skip


def _taken(one: Examples, names: Sequence[str], taken: dict[str, tuple[int, str]]) -> None:
    """Of each stored row its class and what it is taken for; the first attack that broke it counts."""
    stored = one.evidence
    if not {"label", "adversarial_prediction"} <= set(stored.fields) or not names:
        return
    labels, answers = (stored.column(name).reshape(len(stored)) for name in ("label", "adversarial_prediction"))
    for row, label, answer in zip(stored.ids, labels, answers, strict=True):
        taken.setdefault(row, (int(label), named(answer, names)))


def _pairs(pairs: Counter[tuple[str, str]], title: str, told: str) -> None:
    import pandas as pd

    rows: list[tuple[Any, ...]] = [(true, answer, count) for (true, answer), count in pairs.most_common(MOST_PAIRS)]
    st.markdown(f"**{plain(title)}**")
    st.dataframe(
        pd.DataFrame(rows, columns=[_("true class"), _("taken for"), _("rows")]), hide_index=True, key="pairs", width="content",
        height=38 + 35 * min(len(rows), 12),
    )  # fmt: skip
    st.caption(_("Good: no pair stands out; one that does is a confusion to train against.") + " " + told)
