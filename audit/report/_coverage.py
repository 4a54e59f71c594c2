"""What an audit did not test. A reader who is not told takes silence for a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from audit.finding import Finding, Record, Status, ThreatModel
from audit.language import gettext as _
from audit.numbers import show
from audit.report._about import about, known_checks
from audit.report._told import told
from audit.report._words import ACCESS, count, mapping

GapKind = Literal["unfinished", "check", "not_applicable", "adversary", "data", "gate", "blind_spot"]
HEADINGS: dict[GapKind, str] = {
    "unfinished": "Planned, and not finished",
    "not_applicable": "Could not be tested on this model and data",
    "check": "Checks that the scenario does not run",
    "adversary": "Adversaries that were not tried",
    "data": "What the data cannot show",
    "gate": "Measured, but nothing rides on it",
    "blind_spot": "What the checks that ran cannot see",
}
_EVASION = ("untargeted", "targeted")
_CORRUPTIONS = "robustness.corruptions"


class Gap(Record):
    """One thing that this audit says nothing about."""

    kind: GapKind
    subject: str
    text: str


def gaps(
    manifest: Mapping[str, Any], findings: Sequence[Finding], ran: Sequence[str], unfinished: Sequence[str] = ()
) -> tuple[Gap, ...]:
    """Everything a stored run leaves untested, as far as the folder and the installed checks tell.

    Args:
        ran: names of the checks that the scenario runs.
        unfinished: steps that have not ended.
    """
    found = [
        *(Gap(kind="unfinished", subject=step, text="") for step in unfinished),
        *_not_applicable(findings),
        *_other_checks(manifest, ran),
        *_adversaries([f for f in findings if f.threat_model and f.status not in (Status.ERROR, Status.VOID)], ran),
        *_data(manifest),
        *_ungated(findings),
        *_blind_spots(ran),
    ]
    return tuple(found)


def _not_applicable(findings: Iterable[Finding]) -> Iterator[Gap]:
    seen = set()
    for finding in findings:
        key = (finding.step, finding.message)
        if finding.status is Status.NOT_APPLICABLE and key not in seen:
            seen.add(key)
            yield Gap(kind="not_applicable", subject=finding.step, text=told(finding.message))


def _other_checks(manifest: Mapping[str, Any], ran: Sequence[str]) -> Iterator[Gap]:
    models = [facts for facts in mapping(manifest.get("models")).values() if isinstance(facts, dict)]
    tasks = {str(facts["task"]) for facts in models if facts.get("task")}
    offered = {str(name) for facts in models for name in facts.get("capabilities") or ()}
    if "train" in mapping(mapping(manifest.get("data")).get("rows")):
        offered.add("train_data")
    for name in known_checks():
        if name in ran:
            continue
        known = about(name)
        if tasks and known.tasks and not tasks & set(known.tasks):
            continue
        missing = [need for need in known.needs if need not in offered] if models else []
        note = _("It would need {needs}, which this model and data do not offer.").format(needs=_(", ").join(missing))
        said = _(known.summary)
        yield Gap(
            kind="check",
            subject=name,
            text=_("{first} {second}").format(first=said, second=note) if missing else said,
        )


def _adversaries(findings: Sequence[Finding], ran: Sequence[str]) -> Iterator[Gap]:
    threats = [f.threat_model for f in findings if f.threat_model]
    evasion = [t for t in threats if t.goal in _EVASION]
    if not evasion:
        yield Gap(
            kind="adversary",
            subject=_("adversarial inputs"),
            text=_("None were tried: nothing is known about how it breaks."),
        )
    else:
        yield from _evasion(evasion, ran)
    if not any(t.goal == "membership" for t in threats):
        yield Gap(
            kind="adversary",
            subject=_("membership inference"),
            text=_("Was not tried: nothing is known about what the model gives away of the rows it was trained on."),
        )


def _evasion(threats: Sequence[ThreatModel], ran: Sequence[str]) -> Iterator[Gap]:
    largest: dict[str, tuple[float, str]] = {}
    for threat in threats:
        if threat.norm is not None and threat.eps is not None:
            largest[threat.norm] = max(largest.get(threat.norm, (0.0, "")), (threat.eps, threat.units))
    if largest:
        tried = _("; ").join(
            _("{norm} up to {eps}").format(norm=norm, eps=f"{show(eps)} {_(units)}".rstrip())
            for norm, (eps, units) in sorted(largest.items())
        )
        if absent := [norm for norm in ("linf", "l2", "l1") if norm not in largest]:
            yield Gap(
                kind="adversary",
                subject=_("changes bounded in {norms}").format(norms=_(" or ").join(absent)),
                text=_("Only {tried} was tried.").format(tried=tried),
            )
        other = _("occlusion, patches") if _CORRUPTIONS in ran else _("rotation, blur, occlusion, weather, patches")
        beyond = _("Beyond {tried}: {other}.").format(tried=tried, other=other)
        yield Gap(kind="adversary", subject=_("larger or other changes"), text=beyond)
    access = {threat.access for threat in threats}
    if absent := [
        _(ACCESS[name]) for name in ("white_box", "black_box_scores", "black_box_labels") if name not in access
    ]:
        yield Gap(
            kind="adversary",
            subject=_("adversaries with other access"),
            text=_("Not tried: {adversaries}.").format(adversaries=_("; ").join(absent)),
        )
    if "targeted" not in {threat.goal for threat in threats}:
        yield Gap(
            kind="adversary", subject=_("targeted attacks"), text=_("Every attack was content with any wrong answer.")
        )


def _data(manifest: Mapping[str, Any]) -> Iterator[Gap]:
    data = mapping(manifest.get("data"))
    if not data:
        return
    rows = mapping(data.get("rows"))
    if "train" not in rows:
        yield Gap(
            kind="data",
            subject=_("training rows"),
            text=_("The data holds none, so neither memorisation nor overlap of training and test rows can be seen."),
        )
    if not data.get("groups"):
        yield Gap(
            kind="data",
            subject=_("groups of people"),
            text=_("No protected attribute is declared, so differences between groups cannot be seen."),
        )
    if "test" in rows:
        yield Gap(
            kind="data",
            subject=_("other data"),
            text=_(
                "Every number speaks of data like the {n} test rows of {source}, drawn the same way; of nothing else."
            ).format(n=count(rows["test"]), source=data.get("source", _("the source"))),
        )
    if notes := [str(note) for note in data.get("notes") or ()]:
        yield Gap(kind="data", subject=_("as it was read"), text=_("; ").join(map(told, notes)))


def _ungated(findings: Sequence[Finding]) -> Iterator[Gap]:
    steps: dict[str, bool] = {}
    for finding in findings:
        if finding.status is not Status.NOT_APPLICABLE:
            steps[finding.step] = steps.get(finding.step, False) or finding.gated
    for step in [step for step, gated in steps.items() if not gated]:
        yield Gap(kind="gate", subject=step, text=_("No gate requires anything of it, so it cannot fail this audit."))


def _blind_spots(ran: Sequence[str]) -> Iterator[Gap]:
    for name in ran:
        if spots := _(about(name).blind_spots):
            yield Gap(kind="blind_spot", subject=name, text=spots[:1].upper() + spots[1:])
