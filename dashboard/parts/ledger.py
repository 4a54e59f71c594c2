"""A privacy ledger and the training behind it, as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from audit.numbers import show as number
from audit.parameters import UserError
from audit.report._told import told
from dashboard.drawing import charts, privacy_charts
from dashboard.parts import opened
from dashboard.parts.markdown import plain
from dashboard.reading import trainings
from dashboard.words import _

if TYPE_CHECKING:
    from audit.privacy.accounting import TrainingRecord

Fact = tuple[str, str]
DIGITS = 16
"""Of a digest, shown where its whole length says nothing more."""


def show(record: TrainingRecord, cautions: Sequence[str] | None) -> None:
    """Draw a ledger.

    Args:
        cautions: what an audit found when it held the ledger against its claim; None where none did.
    """
    left, right = st.columns(2, gap="large")
    with left:
        st.html(opened.facts(_("Promised and spent"), _budget(record)))
        st.html(opened.facts(_("Trust in it"), _trust(record)))
    with right:
        st.html(opened.facts(_("Mechanism"), _mechanism(record)))
        _cautions(cautions)
    _stretches(record)
    _batches(record)


def _budget(record: TrainingRecord) -> list[Fact]:
    claim = record.claim
    accountant = {
        "prv": _("numerical composition (PRV)"),
        "rdp": _("Rényi composition (RDP)"),
        "gaussian": _("closed form of a Gaussian mechanism"),
        "unknown": _("not recorded"),
    }[record.accountant]
    return [
        ("epsilon", number(claim.epsilon) if claim else _("nothing is claimed")),
        ("delta", f"{record.target_delta:g}"),
        (_("one over the number of examples"), f"{1 / record.dataset_size:.2g}"),
        (_("accountant"), accountant),
        (_("noisy releases"), f"{record.steps:,}"),
        (_("examples"), f"{record.dataset_size:,}"),
    ]


def _mechanism(record: TrainingRecord) -> list[Fact]:
    sampler = {
        "poisson": _("Poisson: each example by a coin of its own"),
        "shuffle": _("shuffled epochs: accounted without amplification"),
        "unknown": _("not recorded"),
    }[record.sampler]
    clipping = {
        "flat": _("each example's gradient as a whole"),
        "per_layer": _("each example's gradient layer by layer"),
        "automatic": _("each example's gradient normalised"),
        "none": _("none: nothing bounds one example's part"),
        "unknown": _("not recorded"),
    }[record.clipping]
    first = record.stretches[0]
    rows = [
        (_("sampler"), sampler),
        (_("sampling rate q"), f"{number(first.sampling_rate)} (1/{number(float(f'{1 / first.sampling_rate:.4g}'))})"),
        (_("noise multiplier sigma"), number(first.sigma)),
        (_("clipping"), clipping),
        (_("clipping norm C"), number(record.clipping_norm) if record.clipping_norm is not None else _("not recorded")),
        (_("batch asked for"), number(record.expected_batch_size) if record.expected_batch_size is not None else ""),
        (_("gradients of each example by"), record.gradient_mode),
        (_("layers that mix a batch"), ", ".join(record.batch_norm)),
    ]
    return [(name, value) for name, value in rows if value]


def _trust(record: TrainingRecord) -> list[Fact]:
    noise = {
        "entropy": _("the operating system's entropy: nobody can draw it again"),
        "reproducible": _("a seed: whoever knows it takes the noise out, and nothing is private"),
        "unknown": _("not recorded"),
    }[record.noise]
    trials = (
        _("nobody said among how many trainings the settings were chosen")
        if record.trials is None and record.trials_drawn is None
        else _("drawn at random")
        if record.trials is None
        else f"{record.trials:,}"
    )
    resumed = len(record.stretches) - 1
    canaries = record.canaries
    rows = [
        (_("noise and sampling from"), noise),
        (_("trials"), trials),
        (_("resumed"), _("never") if not resumed else _("{n} times").format(n=resumed)),
        (_("canaries"), _("none") if canaries is None else _canaries(canaries.kind, len(canaries.included))),
        (_("digest of the rows"), record.data_digest[:DIGITS]),
    ]
    return [(name, value) for name, value in rows if value]


def _canaries(kind: str, n: int) -> str:
    if kind == "gradient":
        return _("{n} gradients, seen in every release (white box)").format(n=f"{n:,}")
    return _("{n} examples, scored by the model (black box)").format(n=f"{n:,}")


def _cautions(cautions: Sequence[str] | None) -> None:
    if cautions is None:
        st.caption(_("No stored audit held this ledger against its claim: privacy.dp_accounting does."))
    elif cautions:
        st.html(opened.facts(_("What the audit found in it"), []).split("<p>")[0])
        st.html(opened.listed([(told(caution), "") for caution in cautions]))
    else:
        st.caption(_("The audit found nothing in it that contradicts its own accounting."))


def _stretches(record: TrainingRecord) -> None:
    """Every stretch where there are several; one says no more than the facts above."""
    import pandas as pd

    if len(record.stretches) == 1:
        return
    rows, done = [], 0
    for at, stretch in enumerate(record.stretches, 1):
        rows.append((at, done + 1, done + stretch.steps, stretch.steps, stretch.sampling_rate, stretch.sigma))
        done += stretch.steps
    header = [
        _("stretch"), _("first step"), _("last step"), _("steps"), _("sampling rate q"), _("noise multiplier sigma")
    ]  # fmt: skip
    st.dataframe(pd.DataFrame(rows, columns=header), hide_index=True, key="stretches", width="content")


def _batches(record: TrainingRecord) -> None:
    """Sizes of the batches that were really drawn."""
    import numpy as np

    if not record.batch_sizes or all(stretch.sampling_rate == 1 for stretch in record.stretches):
        return  # nothing was sampled
    rates: dict[float, float] = {}
    for stretch in record.stretches:
        rates[stretch.sampling_rate] = rates.get(stretch.sampling_rate, 0.0) + stretch.steps / record.steps
    mean = record.dataset_size * sum(rate * share for rate, share in rates.items())
    charts.draw(
        privacy_charts.batches(
            np.asarray(record.batch_sizes, dtype=float), rates, record.dataset_size,
            title=_("Sizes of the batches that were drawn"), label=_("batch size"),
        ),
        _("Good: bars that follow the dashed line, what coins of the promised rate give (on average {mean} examples); one single bar is no "
          "Poisson sample.").format(mean=number(float(f"{mean:.4g}"))),
        key="batch-sizes",
    )  # fmt: skip


def course(folder: Path, *, regression: bool, claim: float | None, delta: float | None) -> None:
    """How a training went, from its history: epsilon spent, then what it was good for and its loss."""
    try:
        moments = trainings.history(folder)
    except UserError as error:
        st.error(
            _("Cannot be shown: {problem}").format(problem=plain(str(error).replace(f"{folder.parent}/", ""))),
            icon=":material/broken_image:",
        )
        return
    if not moments:
        st.caption(_("This training kept no history of its steps."))
        return
    private = any(moment.epsilon is not None for moment in moments)
    places = st.columns(3 if private else 2, gap="medium")
    if private:
        told = "" if delta is None else f", delta {delta:g}"
        with places[0]:
            charts.draw(
                privacy_charts.over_steps(
                    moments, lambda m: m.epsilon, title=_("Epsilon over training"), label=f"epsilon{told}", claim=claim
                ),
                _("Good: the line ends at or below the claim; it can only rise."),
                key="epsilon-over-steps",
            )
    score = _("squared error on test rows") if regression else _("accuracy on test rows")
    with places[-2]:
        charts.draw(
            privacy_charts.over_steps(
                moments, lambda m: m.score, title=_("What the model is good for"), label=score, share=not regression
            ),
            _("Good: falling, and flat at the end.")
            if regression
            else _("Good: rising, and flat at the end: more steps would only spend."),
            key="score-over-steps",
        )
    with places[-1]:
        charts.draw(
            privacy_charts.over_steps(
                moments, lambda m: m.loss, title=_("Loss of the training rows"), label=_("mean loss")
            ),
            _(
                "Good: falling. It sees the rows without noise: for the trainer's eyes, no part of what may be published."
            ),
            key="loss-over-steps",
        )
