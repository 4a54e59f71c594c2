"""Models: what the registry knows of each version, how it was trained, which runs audited it, and what was never tested of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.finding import Status
from audit.model import Field
from audit.names import available
from audit.numbers import show_interval
from audit.parameters import UserError
from audit.registry.card import ModelCard
from audit.report._told import told
from audit.report._words import STATUS, VERDICTS, clean
from dashboard import links
from dashboard.drawing import theme
from dashboard.parts import choosing, ledger, opened
from dashboard.parts.markdown import plain
from dashboard.reading import registered, stored, trainings
from dashboard.reading.measured import numbers
from dashboard.reading.registered import Tested
from dashboard.reading.stored import RunSummary
from dashboard.words import _, ngettext, status_sign, verdict_word

ROWS = 8
"""Rows of a table that are seen without scrolling."""
DIGITS = 12
"""Of a digest in a table."""
MANY = 50
"""Versions beyond which the list begins with the newest of each model."""
WIDTHS = {
    "model": 150,
    "verdict": 138,
    "runs": 46,
    "aliases": 80,
    "tags": 70,
    "task": 88,
    "input": 132,
    "privacy": 58,
    "digest": 100,
    "added": 84,
}
"""Pixels of the table's columns."""
ACCOUNTING = "privacy.dp_accounting"
"""The check that holds a ledger against its claim."""
CLASSES = 20
"""Class names that are written out."""
TONED = 1000
"""Rows of a table beyond which verdicts are told by sign and word alone: Streamlit styles no more cells in reasonable time."""

Audited = Mapping[registered.Version, Sequence[RunSummary]]


def show() -> None:
    """Draw the page."""
    home = stored.home()
    st.title(_("Models"))
    cards, runs = registered.cards(home), stored.runs(home)
    if not cards:
        _how_to_start(str(home))
        return
    names = {card.name for card in cards}
    versions = ngettext("{n} version", "{n} versions", len(cards)).format(n=f"{len(cards):,}")
    st.caption(f"{versions} {ngettext('of {n} model', 'of {n} models', len(names)).format(n=f'{len(names):,}')}")
    audited = registered.by_version(runs)
    chosen = _filtered(cards)
    if chosen:
        _table(chosen, audited)
    else:
        st.info(_("No model is like that."))
    asked = links.asked("model")
    card = _meant(asked, cards) if asked else chosen[0] if chosen else None
    if card is None:
        if asked:
            st.error(_("There is no model '{name}' in this registry.").format(name=plain(asked)))
        return
    _detail(card, [one for one in cards if one.name == card.name], audited)


def _how_to_start(home: str) -> None:
    st.info(_("There are no models in {home} yet.").format(home=home), icon=":material/inbox:")
    st.write(_("Register one: its file is hashed, scanned and asked before anything is written down:"))
    st.code(
        "audit model add digits weights.safetensors --factory mypackage.nets:cnn \\\n"
        "    --task classification --classes 10 --input image --shape 1,8,8 --bounds 0,16",
        language="console",
    )
    st.write(_("Or train one with differential privacy, which registers it with its ledger:"))
    st.code("audit train trainings/digits-private.yaml", language="console")


def _meant(ref: str, cards: Sequence[ModelCard]) -> ModelCard | None:
    """The version that a reference means: ``name@3``, ``name@alias``, or the newest of ``name``."""
    name, _at, selector = ref.partition("@")
    own = [card for card in cards if card.name == name]
    if not selector or selector == "latest":
        return own[0] if own else None
    return next((card for card in own if selector == str(card.version) or selector in card.aliases), None)


def _filtered(cards: Sequence[ModelCard]) -> list[ModelCard]:
    left, right, last = st.columns([4, 4, 3], vertical_alignment="bottom")
    with left:
        text = links.typed("q", _("Search"), _("model, tag, alias, digest"))
    with right:
        tag = links.several("tag", _("Tags"), sorted({t for card in cards for t in card.tags}), empty=_("every tag"))
    with last:
        newest = links.select(
            "versions", _("Versions"), ["all", "newest"],
            lambda choice: {"all": _("all versions"), "newest": _("the newest of each")}[choice],
            default="all" if len(cards) <= MANY else "newest",
        )  # fmt: skip
    first = {card.name: card.ref for card in reversed(cards)}
    return [
        card
        for card in cards
        if (newest == "all" or first[card.name] == card.ref)
        and (not tag or set(tag) & set(card.tags))
        and all(word in _searched(card) for word in text.lower().split())
    ]


def _searched(card: ModelCard) -> str:
    return " ".join((card.ref, card.digest, card.loader, card.task, *card.tags, *card.aliases)).lower()


def _table(cards: Sequence[ModelCard], audited: Audited) -> None:
    import pandas as pd

    own = [audited.get(registered.version_of(card), []) for card in cards]
    frame = pd.DataFrame([_row(card, runs) for card, runs in zip(cards, own, strict=True)])
    names = {
        "model": _("Model"), "verdict": _("Latest verdict"), "runs": _("Runs"), "aliases": _("Aliases"), "tags": _("Tags"),
        "task": _("Task"), "input": _("Input"), "privacy": _("Privacy"), "digest": _("Digest"), "added": _("Added"),
    }  # fmt: skip
    shown = [name for name in names if frame[name].astype(bool).any() or name in ("model", "verdict")]
    styled = (
        frame[shown] if len(frame) > TONED else theme.toned(frame[shown], "verdict", [_status(runs) for runs in own])
    )
    chosen = choosing.row(
        styled,
        key="models",
        height=38 + 35 * min(len(cards), ROWS),
        placeholder="",
        alt=_("Registered models"),
        column_config={name: st.column_config.Column(names[name], width=WIDTHS[name]) for name in shown},
    )
    st.caption(_("Choose a row to see the version below."))
    if chosen is not None:
        links.note(model=cards[chosen].ref)


def _status(runs: Sequence[RunSummary]) -> str:
    """Whose looks the verdict takes."""
    run = registered.telling(runs)
    return str(VERDICTS.get(run.word, VERDICTS["damaged"])[0] if run else Status.NOT_APPLICABLE)


def _row(card: ModelCard, runs: Sequence[RunSummary]) -> dict[str, Any]:
    run = registered.telling(runs)
    return {
        "model": card.ref,
        "verdict": verdict_word(run.word) if run else f"– {_('never audited')}",
        "runs": len(runs),
        "aliases": ", ".join(card.aliases),
        "tags": ", ".join(card.tags),
        "task": _task(card),
        "input": _input(card),
        "privacy": _("ledger") if card.ledger else "",
        "digest": card.digest[:DIGITS],
        "added": card.added_at[:10],
    }


def _task(card: ModelCard) -> str:
    if not card.classes:
        return _(card.task)
    return ngettext("{n} class", "{n} classes", len(card.classes)).format(n=len(card.classes))


def _input(card: ModelCard) -> str:
    if card.spec.tabular:
        return _("table of {n} columns").format(n=len(card.spec.fields))
    return f"{_(card.spec.kind)} {'×'.join(map(str, card.spec.shape))}"


# --- one version -------------------------------------------------------------------------------------------------


def _detail(card: ModelCard, versions: Sequence[ModelCard], audited: Audited) -> None:
    runs = audited.get(registered.version_of(card), [])
    st.subheader(plain(card.ref), divider="gray")
    _verdict(runs)
    left, right = st.columns(2, gap="large")
    with left:
        st.html(opened.facts(_("What it is"), _identity(card)))
    with right:
        st.html(opened.facts(_("What it does"), _behaviour(card)))
    _fields(card)
    _runs(runs)
    _versions(card, versions, audited)
    tried = registered.tested(card, runs)
    _tests(tried)
    _training(card, tried)


def _verdict(runs: Sequence[RunSummary]) -> None:
    """The latest verdict, those of other scenarios, and the way to the pages behind them."""
    run = registered.telling(runs)
    if run is None:
        st.info(_("No stored run audited this version: nothing is known of it but what is written here."))
        return
    status = VERDICTS.get(run.word, VERDICTS["damaged"])[0]
    headline = verdict_word(run.word).split(" ", 1)[1]
    said = told((run.problem or run.sentence).removeprefix("no verdict: "))
    when = f"{run.started:%Y-%m-%d %H:%M}" if run.started else ""
    st.html(
        f'<div class="verdict {status} small"><div class="head"><div class="sign" aria-hidden="true">{escape(STATUS[status].icon)}</div>'
        f'<div class="said"><p class="word">{escape(headline)}</p><p class="sentence">{escape(said[:1].upper() + said[1:])}</p>'
        f'<p class="soft">{escape(" · ".join(part for part in (run.scenario, when) if part))}</p></div></div></div>'
    )
    others = [one for one in registered.verdicts(runs).values() if one.name != run.name]
    if others:
        items = ", ".join(f"{_link(one, one.scenario)} {_signed(one)}" for one in others)
        st.html(f'<p class="beside">{escape(_("Newest verdicts of other scenarios:"))} {items}</p>')
    if run.name != runs[0].name:
        said = _("The newest run came to none:")
        st.html(f'<p class="beside">{escape(said)} {_link(runs[0], runs[0].name)} {_signed(runs[0])}</p>')
    with st.container(horizontal=True):
        links.link(_("Open its latest run"), "run", icon=":material/fact_check:", run=run.name)
        if any(check.startswith("privacy.") for check in run.checks):
            links.link(_("What it gives away"), "privacy", icon=":material/shield_person:", run=run.name)
        if any(check.startswith("robustness.") for check in run.checks):
            links.link(_("How it was attacked"), "attacks", icon=":material/security:", run=run.name)
        if any(check.startswith("explanation.") for check in run.checks):
            links.link(_("How it decides"), "saliency", icon=":material/image_search:", run=run.name)


def _link(run: RunSummary, label: str) -> str:
    """The way to a run, as HTML."""
    return f'<a style="color: var(--link)" href="{escape(links.address("run", run=run.name))}" target="_self">{escape(clean(label))}</a>'


def _signed(run: RunSummary) -> str:
    """A run's verdict by sign and word, as HTML."""
    status = VERDICTS.get(run.word, VERDICTS["damaged"])[0]
    return f'<span class="tone {status}">{escape(verdict_word(run.word))}</span>'


def _identity(card: ModelCard) -> list[tuple[str, str]]:
    parameters = [(f"{card.loader} {key}", _plain(value)) for key, value in card.parameters.items()]
    rows = [
        (_("digest"), card.digest),
        (_("loader"), card.loader),
        *parameters,
        *((_("file {name}").format(name=name), f"sha256 {sha256}") for name, sha256 in card.files.items()),
        (_("aliases"), ", ".join(card.aliases)),
        (_("tags"), ", ".join(card.tags)),
        (_("source"), card.source),
        (_("added"), f"{card.added_at[:16].replace('T', ' ')} {card.added_by}".strip()),
    ]
    return [(name, clean(value)) for name, value in rows if value]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _behaviour(card: ModelCard) -> list[tuple[str, str]]:
    more = f" … ({len(card.classes)})" if len(card.classes) > CLASSES else ""
    rows = [
        (_("task"), _(card.task)),
        (_("classes"), ", ".join(card.classes[:CLASSES]) + more),
        (_("answers in"), _(card.output)),
        (_("input"), _input(card)),
        (_("preprocessing inside the model"), card.spec.preprocessing),
        (_("an audit may use"), _(", ").join(map(_, card.capabilities))),
        (_("rows it was trained on"), _("known by their ids") if card.members else _("not known")),
    ]
    return [(name, clean(value)) for name, value in rows if value]


def _fields(card: ModelCard) -> None:
    """What it is fed, field by field."""
    import pandas as pd

    rows = [
        {
            _("field"): one.name, _("kind"): _(one.kind), _("shape"): "×".join(map(str, one.shape)), _("bounds"): _bounds(one),
            _("units"): _(one.units or ""), _("categories"): ", ".join(one.categories),
        }
        for one in card.spec.fields
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    frame = frame.loc[:, ~frame.isin([""]).all()]
    with st.expander(_("Input specification ({n})").format(n=len(rows)), expanded=len(rows) <= ROWS):
        st.dataframe(frame, hide_index=True, key="fields", width="content")


def _bounds(one: Field) -> str:
    return show_interval(*one.bounds) if one.bounds else ""


def _runs(runs: Sequence[RunSummary]) -> None:
    import pandas as pd

    if not runs:
        return
    st.markdown(f"#### {_('Runs of this version')}")
    counted = [status for status in STATUS if status is not Status.INFO and any(run.counts.get(status) for run in runs)]
    rows = [
        {
            "verdict": verdict_word(run.word), "scenario": run.scenario, "when": f"{run.started:%Y-%m-%d %H:%M}" if run.started else "",
            **{str(status): run.counts.get(status, 0) for status in counted}, "run": run.name,
        }
        for run in runs
    ]  # fmt: skip
    names = {"verdict": _("Verdict"), "scenario": _("Scenario"), "when": _("When (UTC)"), "run": _("Run")}
    names |= {str(status): status_sign(status) for status in counted}
    chosen = choosing.row(
        theme.toned(pd.DataFrame(rows), "verdict", [str(VERDICTS[run.word][0]) for run in runs]),
        key="runs-of-model",
        height=38 + 35 * min(len(rows), ROWS),
        column_config={name: st.column_config.Column(label) for name, label in names.items()},
        alt=_("Runs of this version"),
    )
    st.caption(_("Choose a row to open its run."))
    if chosen is not None:
        links.go("run", run=runs[chosen].name)


def _versions(card: ModelCard, own: Sequence[ModelCard], audited: Audited) -> None:
    """Every version of the model, the one that is shown marked."""
    import pandas as pd

    if len(own) < 2:
        return
    st.markdown(f"#### {_('Versions of {model}').format(model=plain(card.name))}")
    runs = [audited.get(registered.version_of(one), []) for one in own]
    rows = [
        {
            "version": f"{one.version} ←" if one.ref == card.ref else str(one.version), "verdict": (row := _row(one, found))["verdict"],
            "scenario": run.scenario if (run := registered.telling(found)) else "", "runs": len(found), "aliases": row["aliases"],
            "tags": row["tags"], "digest": row["digest"], "added": f"{row['added']} {one.added_by}".strip(),
        }
        for one, found in zip(own, runs, strict=True)
    ]  # fmt: skip
    names = {
        "version": _("Version"), "verdict": _("Latest verdict"), "scenario": _("Scenario"), "runs": _("Runs"), "aliases": _("Aliases"),
        "tags": _("Tags"), "digest": _("Digest"), "added": _("Added"),
    }  # fmt: skip
    frame = pd.DataFrame(rows)
    shown = [name for name in names if frame[name].astype(bool).any()]
    chosen = choosing.row(
        theme.toned(frame[shown], "verdict", [_status(found) for found in runs]),
        key=f"versions-of-{card.ref}",
        height=38 + 35 * min(len(rows), ROWS),
        column_config={name: st.column_config.Column(names[name]) for name in shown},
        alt=_("Versions of this model"),
    )
    if chosen is not None and own[chosen].ref != card.ref:
        links.note(model=own[chosen].ref)
        st.rerun()
    _compared(card, own, audited)


def _compared(card: ModelCard, own: Sequence[ModelCard], audited: Audited) -> None:
    """The way to what changed since the version before, where one scenario judged both."""
    mine = registered.verdicts(audited.get(registered.version_of(card), []))
    for older in (one for one in own if one.version < card.version):
        theirs = registered.verdicts(audited.get(registered.version_of(older), []))
        both = [scenario for scenario in mine if scenario in theirs]
        if both:
            label = _("Compare with version {n}").format(n=older.version)
            links.link(
                label,
                "compare",
                icon=":material/compare_arrows:",
                after=mine[both[0]].name,
                before=theirs[both[0]].name,
            )
            return


def _tests(tried: Mapping[str, Tested]) -> None:
    """Every check of this installation: what it came to here, and which were never tried."""
    st.markdown(f"#### {_('What was tested of it, and what never was')}")
    left, right = st.columns(2, gap="large")
    known: dict[str, list[str]] = {}
    for name in available("checks"):
        known.setdefault(name.split(".")[0], []).append(name)
    with left:
        _tried(tried)
    absent = {
        family: [n.split(".", 1)[1] for n in names if n not in tried or not tried[n].measured]
        for family, names in known.items()
    }
    with right:
        rows = [
            (
                f"{_(family)} ({len(known[family]) - len(names)}/{len(known[family])})",
                ", ".join(names) if len(names) < len(known[family]) else _("nothing of it: {checks}").format(checks=", ".join(names)),
            )
            for family, names in absent.items()
            if names
        ]  # fmt: skip
        st.html(f"<h4>{escape(_('Never measured'))}</h4>{opened.listed(rows)}")
        st.caption(_("A verdict says nothing about any of this."))


def _tried(tried: Mapping[str, Tested]) -> None:
    if not tried:
        st.caption(_("Nothing yet."))
        return
    items = []
    for check, one in sorted(tried.items()):
        gated = {s: n for s, n in one.statuses.items() if s != Status.INFO} or one.statuses
        said = ", ".join(
            f'<span class="tone {s}">{escape(status_sign(s))}</span> {gated[s]}' for s in map(str, STATUS) if s in gated
        )
        items.append(f"<li>{_link(one.run, check)}: {said}</li>")
    st.html(f'<h4>{escape(_("Newest result of each check"))}</h4><ul class="listed">{"".join(items)}</ul>')


# --- training ----------------------------------------------------------------------------------------------------


def _cautions(card: ModelCard, tried: Mapping[str, Tested]) -> Sequence[str] | None:
    """What the newest audit of the ledger found in it; None where there was none."""
    one = tried.get(ACCOUNTING)
    if one is None or not any(status not in registered.NO_RESULT for status in one.statuses):
        return None
    view = stored.run(stored.home(), one.run.name)
    refs = [model.ref for model in one.run.models if (model.name, model.version) == (card.name, card.version)]
    measured = [n for ref in refs for n in numbers(view, ref, ACCOUNTING) if n.metric == "violations"]
    return measured[0].cautions if measured else None


def _training(card: ModelCard, tried: Mapping[str, Tested]) -> None:
    """Recipe, ledger and course, where they are known."""
    home, facts = stored.home(), card.model_dump(mode="json")
    folder = trainings.folder_of(home, facts)
    st.markdown(f"#### {_('How it was trained')}")
    if card.recipe is None and not card.ledger and folder is None:
        st.caption(_("The registry does not know: neither a recipe nor a ledger came with it."))
        return
    if card.recipe is not None:
        recipe = card.recipe
        name, settings = recipe.optimiser
        told = ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())
        rows = [
            (_("epochs"), f"{recipe.epochs:,}"),
            (_("batch"), f"{recipe.batch:,}"),
            (_("optimiser"), f"{name} ({told})" if told else name),
            (_("loss"), recipe.loss.replace("_", " ")),
        ]
        with st.columns(2, gap="large")[0]:
            st.html(opened.facts(_("Recipe"), rows))
    record = None
    try:
        record = trainings.ledger(home, facts)
    except UserError as error:
        st.error(_("Cannot be shown: {problem}").format(problem=plain(clean(error))), icon=":material/broken_image:")
    if record is not None:
        st.markdown(f"#### {_('Privacy ledger')}")
        ledger.show(record, _cautions(card, tried))
    elif not card.ledger:
        st.caption(_("It has no privacy ledger: nothing bounds what it may tell of the rows it was trained on."))
    if folder is not None:
        claim = record.claim if record else None
        ledger.course(
            folder, regression=card.task == "regression", claim=claim.epsilon if claim else None,
            delta=record.target_delta if record else None,
        )  # fmt: skip
