"""Does a model give its training data back?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.checks.privacy._texts import texts_in
from audit.finding import Bound, EvidenceRef, Exact, Measurement, Metric, Proportion, RankAuc, Resampled, ThreatModel
from audit.parameters import Parameters, Real, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel, InputSpec
    from audit.privacy.exposure import Space
    from audit.privacy.language_model import LanguageModel

_CHANCE = 0.01
"""A canary that a model which never saw it would expose so seldom was likely by itself."""
_LEVEL = 0.95


class Canary(Parameters):
    """A secret that was drawn at random and put into the training text."""

    name: str
    """What reports call it; the secret itself is never written."""
    text: Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
    """What it stands in: ``the pin of alice is {}``."""
    secret: Annotated[str, Field(min_length=1)]
    """As it was put in. Its characters that are in `alphabet` were drawn, the others are fixed: ``281-26-5017``."""
    alphabet: str = "0123456789"
    """Characters that each place was drawn from."""
    choices: tuple[str, ...] = ()
    """What the whole secret was drawn from instead (names, words)."""

    @model_validator(mode="after")
    def _drawn(self) -> Canary:
        if self.choices and (self.secret not in self.choices or len(set(self.choices)) < len(self.choices)):
            raise ValueError(f"the secret of canary '{self.name}' must be one of its choices, which must differ")
        if not self.choices and not set(self.secret) & set(self.alphabet):
            raise ValueError(f"no character of the secret of canary '{self.name}' is in its alphabet")
        return self

    @property
    def space(self) -> Space:
        """What the secret was drawn from."""
        from audit.privacy.exposure import Space

        if self.choices:
            return Space((self.choices,))
        letters = tuple(sorted(set(self.alphabet)))
        return Space(tuple(letters if one in letters else (one,) for one in self.secret))

    def around(self, secret: str) -> str:
        """The text with another secret."""
        return self.text.replace("{}", secret)


class Memorisation(Check):
    """What of its training data a model gives back, in three ways; each is measured where its parameter is given.

    ``canaries`` of a language model: secrets drawn at random and put into the training text. ``exposure`` is by how many bits the model
    prefers such a secret to others drawn alike: log2 of how many there are, minus log2 of its rank by log-perplexity. It is exact where
    the secrets can be enumerated; else it follows from a skew-normal fitted to a sample, with bootstrap interval, and
    ``exposure_floor`` bounds it from below whatever their distribution. The undivided numbers are the most exposed canary's. A
    reference model that never saw the canaries is their control: one that it exposes too was likely by itself.

    ``training_text`` of a language model: ``extractable`` is the share of training snippets that greedy decoding continues word for
    word from the snippet's own beginning (k-extractable at k = ``prefix``). Snippets held out are the control: ``extraction_gain`` is
    the difference.

    ``samples`` of a generative or embedding model: ``member_excess`` is the share of samples nearer to a member than to any row held
    out, minus the members' share of the rows; ``distance_ratio`` the median of the distances' ratio; ``copies`` the share nearer to a
    member than all but ``fpr`` of the rows held out. A blind control that tells members from rows held out by themselves voids them.

    Source: Carlini et al. 2019, arXiv:1802.08232 (exposure); Carlini et al. 2021, arXiv:2012.07805, and 2023, arXiv:2202.07646
    (k-extractable); Platzer & Reutterer 2021, arXiv:2104.00635, and Meehan et al. 2020, arXiv:2004.05675 (distances).
    Blind spots: greedy decoding from one prefix misses what sampling, other prompts or near-verbatim copies give away. Exposure means
    something of secrets drawn at random only. Distances in input space miss copies that were moved, cropped or recoloured: give
    embeddings instead; a generator of little variety lies near members without copying any.
    """

    controls: ClassVar = ("MITRE ATLAS AML.T0057", "OWASP LLM02:2025", "NIST AI RMF MEASURE 2.10")
    metrics: ClassVar = (
        Metric(
            name="exposure", title="exposure of a canary", better="lower", kinds=("exact", "resampled"), unit="bits",
            varies="models",
        ),
        Metric(
            name="exposure_floor", title="exposure of a canary, at least", better="lower", kinds=("bound",), unit="bits"
        ),
        Metric(
            name="reference_exposure", title="exposure in a model that never saw the canary (control)", better="neither",
            kinds=("exact", "resampled"), unit="bits", varies="models",
        ),
        Metric(name="extractable", title="training snippets continued word for word", better="lower", kinds=("proportion",)),
        Metric(
            name="extractable_held_out", title="snippets held out continued word for word (control)", better="neither",
            kinds=("proportion",),
        ),
        Metric(
            name="extraction_gain", title="training snippets continued minus those held out", better="lower",
            kinds=("resampled",),
        ),
        Metric(name="member_excess", title="samples nearest to a member beyond chance", better="lower", kinds=("resampled",)),
        Metric(
            name="distance_ratio", title="distance to members over distance to rows held out", better="higher",
            kinds=("resampled",),
        ),
        Metric(name="copies", title="samples closer to a member than chance brings", better="lower", kinds=("resampled",)),
        Metric(name="blind_auc", title="AUC of inputs alone (control)", better="neither", kinds=("rank_auc",)),
    )  # fmt: skip
    remedy: ClassVar = (
        "The model holds training data word for word: remove repeated rows and secrets from the training data, train for fewer epochs "
        "or with DP-SGD, and filter what it puts out; then audit again."
    )

    model_dir: str | None = None
    """Folder of the causal language model that is asked (``save_pretrained``: safetensors and tokenizer), relative to the scenario; it
    is scanned, and opened offline without any code of its own."""
    reference_dir: str | None = None
    """Folder of a language model that never saw the canaries: their control."""
    canaries: str | None = None
    """Path of a ``.json`` file with a list of canaries: ``name``, ``text`` with ``{}``, ``secret``, ``alphabet`` or ``choices``."""
    enumerate_up_to: Annotated[int, Field(ge=2)] = 1_000_000
    """Secrets up to which all of them are asked about; a sample is where there are more."""
    secrets: Annotated[int, Field(ge=100)] = 2000
    """Secrets in such a sample."""
    training_text: str | None = None
    """Path of text that the model was trained on: a snippet a line, or every string of ``.json`` and ``.jsonl``."""
    held_out_text: str | None = None
    """The same of text that it was not trained on, drawn alike."""
    snippets: Annotated[int, Field(ge=1)] = 1000
    """Snippets at most, of either."""
    prefix: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (50,)
    """Tokens that decoding starts from; the first gives the undivided numbers."""
    continuation: Annotated[int, Field(ge=1)] = 50
    """Tokens that it must go on with."""
    samples: str | None = None
    """Path of a ``.npz`` file with ``samples`` as the model made them, compared with the data's members and test rows; or with
    ``members`` and ``held_out`` beside them, where those are embeddings."""
    distance: Literal["l2", "cosine"] = "l2"
    """How far samples are from rows. Of a table, numbers are standardised and categories are apart or alike."""
    fpr: Annotated[Real, Field(gt=0, lt=1)] = 0.01
    """Share of the rows held out that would be called copies."""

    @model_validator(mode="after")
    def _something_to_measure(self) -> Memorisation:
        asked = self.canaries is not None or self.training_text is not None
        if not asked and self.samples is None:
            raise ValueError("nothing to measure: give 'canaries' or 'training_text' with 'model_dir', or 'samples'")
        if asked != (self.model_dir is not None):
            raise ValueError("'model_dir' goes with 'canaries' or 'training_text': give both")
        if (self.training_text is None) != (self.held_out_text is None):
            raise ValueError("'training_text' and 'held_out_text' go together: one is the other's control")
        if self.reference_dir is not None and self.canaries is None:
            raise ValueError("'reference_dir' is the control of 'canaries': give both")
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield canaries, then continuations, then samples."""
        if self.model_dir is not None:
            from audit.privacy.language_model import open_language_model

            asked = open_language_model(ctx.base / self.model_dir)
            if self.canaries is not None:
                yield from self._canaries(asked, _read_canaries(ctx.base / self.canaries), ctx)
            if self.training_text is not None:
                yield from self._continued(asked, ctx)
        if self.samples is not None:
            yield from self._nearest(data, ctx)

    # --- canaries ---

    def _canaries(self, asked: LanguageModel, canaries: list[Canary], ctx: Context) -> Iterator[Measurement]:
        """The control first, then the exposure of each canary, then of the most exposed."""
        from audit.privacy.language_model import open_language_model

        if self.reference_dir is not None:
            reference = open_language_model(ctx.base / self.reference_dir)
            control = self._exposed(reference, canaries, ctx, "reference")
            for one in control:
                voids = _likely_anyway(one, len(canaries))
                yield _exposure("reference_exposure", one, {"canary": one.name}, self.secrets, voids=voids)
            yield _exposure("reference_exposure", _most(control), {}, self.secrets)
        found = self._exposed(asked, canaries, ctx, "model")
        stored = _store_exposures(found, ctx)
        for one in found:
            dims = {"canary": one.name}
            yield _exposure("exposure", one, dims, self.secrets, stored)
            if one.below is not None:
                yield self._floor(one, dims, 1)
        most = _most(found)
        chance = -math.expm1(len(found) * math.log1p(-(2.0**-most.bits))) if most.bits > 0 else 1.0
        told = f"the most exposed of {len(found)}; if nothing were memorised, one would reach this with a chance of {chance:.2g}"
        yield _exposure("exposure", most, {}, self.secrets, stored, told)
        if sampled := [one for one in found if one.below is not None]:
            yield self._floor(min(sampled, key=lambda one: one.below or 0), {}, len(sampled))

    def _exposed(self, asked: LanguageModel, canaries: list[Canary], ctx: Context, whose: str) -> list[_Exposed]:
        """Exposure of every canary; those that were drawn from the same secrets, in the same text, share one walk."""
        groups: dict[tuple[str, Space], list[Canary]] = {}
        for canary in canaries:
            groups.setdefault((canary.text, canary.space), []).append(canary)
        found = []
        for number, ((text, space), group) in enumerate(groups.items()):
            ctx.progress(number, len(groups), f"canaries of {whose}")
            if space.size <= self.enumerate_up_to:
                found += _enumerated(asked, group, space)
            else:
                found += self._sampled(asked, group, space, ctx, f"{whose}-{text}")
        order = [canary.name for canary in canaries]
        return sorted(found, key=lambda one: order.index(one.name))

    def _sampled(
        self, asked: LanguageModel, group: list[Canary], space: Space, ctx: Context, purpose: str
    ) -> list[_Exposed]:
        import numpy as np

        from audit.privacy.exposure import MISFIT, extrapolate

        drawn = space.sample(self.secrets, ctx.generator(f"secrets-{purpose}"))
        texts = dict.fromkeys((*(canary.secret for canary in group), *drawn))
        place = {secret: i for i, secret in enumerate(texts)}
        bits = asked.bits([group[0].around(secret) for secret in texts])
        of_canaries, others = bits[[place[c.secret] for c in group]], bits[[place[secret] for secret in drawn]]
        fitted = extrapolate(of_canaries, others, space.size, ctx.generator(f"bootstrap-{purpose}"))
        misfit = (
            f"the sample is not skew-normal (p = {fitted.p_value:.1g}): the extrapolation says nothing; 'exposure_floor' holds"
            if fitted.p_value < MISFIT
            else None
        )
        return [
            _Exposed(
                canary.name, float(value), space.size, float(told), tuple(map(float, replicates)), misfit,
                below=int((np.asarray(others) <= told).sum()),
            )
            for canary, value, told, replicates in zip(group, fitted.values, of_canaries, fitted.replicates, strict=True)
        ]  # fmt: skip

    def _floor(self, one: _Exposed, dims: dict[str, str], tried: int) -> Measurement:
        """What the sample shows whatever its distribution, corrected for the best of `tried` being told."""
        from audit.privacy.exposure import exposure_floor

        level = 1 - (1 - _LEVEL) / tried
        bound = Bound(
            value=exposure_floor(one.below or 0, self.secrets, level), side="lower", level=_LEVEL, n=self.secrets,
            ceiling=exposure_floor(0, self.secrets, level),
        )  # fmt: skip
        return Measurement(metric="exposure_floor", estimate=bound, dims=dims, threat_model=_SCORES)

    # --- continuations ---

    def _continued(self, asked: LanguageModel, ctx: Context) -> Iterator[Measurement]:
        from audit.privacy.membership import rate_difference

        members = self._windows(asked, ctx.base / str(self.training_text), ctx)
        others = self._windows(asked, ctx.base / str(self.held_out_text), ctx)
        for number, prefix in enumerate(self.prefix):
            ctx.progress(number, len(self.prefix), f"continuations of {prefix} tokens")
            exact = {
                name: asked.greedy_hits(windows.ids[:, -prefix - self.continuation :], self.continuation).all(dim=1)
                for name, windows in (("training", members), ("held-out", others))
            }
            (k, n), (control, m) = ((int(hits.sum()), len(hits)) for hits in exact.values())
            gain = rate_difference(k, n, control, m, ctx.generator(f"gain-{prefix}"))
            writer = ctx.evidence(
                f"continued-{prefix}", "outcomes", title=f"training snippets continued from {prefix} tokens"
            )
            writer.append(members.lines, value=exact["training"].numpy())
            cautions = tuple(windows.caution for windows in (members, others) if windows.caution)
            measured = (
                ("extractable", Proportion(k=k, n=n), (writer.ref,)),
                ("extractable_held_out", Proportion(k=control, n=m), ()),
                ("extraction_gain", Resampled(value=gain.value, replicates=gain.replicates, n=n + m), (writer.ref,)),
            )
            parts: list[dict[str, str]] = [{}] if number == 0 else []
            if len(self.prefix) > 1:
                parts.append({"prefix": f"{prefix}"})
            for dims in parts:
                for metric, estimate, evidence in measured:
                    yield Measurement(
                        metric=metric, estimate=estimate, dims=dims, threat_model=_LABELS, evidence=evidence, cautions=cautions
                    )  # fmt: skip

    def _windows(self, asked: LanguageModel, path: Path, ctx: Context) -> _Windows:
        """One stretch of tokens from each of at most `snippets` lines, at a random place.

        Raises:
            UserError: no line is long enough.
        """
        import torch

        length = max(self.prefix) + self.continuation
        texts = texts_in(path)
        order = ctx.generator(f"snippets-{path.name}").permutation(len(texts)).tolist()
        encoded = asked.encode([texts[i][1] for i in order])
        long = [(i, tokens) for i, tokens in zip(order, encoded, strict=True) if len(tokens) >= length]
        if not long:
            raise UserError(
                f"{path}: none of its {len(texts)} snippets has the {length} tokens that 'prefix' and 'continuation' take: put longer "
                "ones on a line, or take fewer tokens"
            )
        short = len(texts) - len(long)
        caution = f"{short} of {len(texts)} snippets of {path.name} have fewer than {length} tokens" if short else ""
        long = sorted(long[: self.snippets])
        rng = ctx.rng([f"{path.name} {i}" for i, _ in long], "place")
        places = (rng.uniform(()) * torch.tensor([len(tokens) - length + 1 for _, tokens in long])).long().tolist()
        rows = [tokens[at : at + length] for at, (_, tokens) in zip(places, long, strict=True)]
        return _Windows(torch.tensor(rows), [f"{i + 1} {texts[i][0]}" for i, _ in long], caution)

    # --- samples ---

    def _nearest(self, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        from audit.privacy.blind_control import blind_auc
        from audit.privacy.nearest_member import comparable, nearness

        held = _arrays(ctx.base / str(self.samples))
        ids: tuple[str, ...]
        if "members" in held:
            sides = [held[name] for name in ("samples", "members", "held_out")]
            ids = tuple(str(i) for i in range(len(held["members"])))
            spec: InputSpec | None = None
        elif data.train is not None:
            sides, ids, spec = [held["samples"], data.train.x, data.test.x], data.train.ids, data.spec
        else:
            raise UserError(
                f"{self.samples} is compared with members: give the data a 'split', or put 'members' and 'held_out' into the file"
            )
        ctx.progress(0, 2, "blind control")
        made, inside, outside = comparable(sides[0], sides[1], sides[2], spec, self.distance)
        blind = blind_auc(inside, outside, ctx.generator("blind"))
        low, high = blind.interval()
        why = f"members are told from rows held out by themselves (blind AUC {blind.value:.3f}, 95 % interval {low:.3f} to {high:.3f})"
        voids = {} if low <= 0.5 <= high else dict.fromkeys(("member_excess", "distance_ratio", "copies"), why)
        yield Measurement(
            metric="blind_auc", voids=voids,
            estimate=RankAuc(value=blind.value, n_pos=blind.n_members, n_neg=blind.n_non_members),
        )  # fmt: skip
        ctx.progress(1, 2, "distances")
        found = nearness(made, inside, outside, self.fpr, ctx.generator("nearest"))
        table = _store_nearest(found.nearest, found.distance, ids, ctx)
        few = few_rows(found.groups)
        excess, ratio = (tuple(map(float, r)) for r in (found.excess_replicates, found.ratio_replicates))
        for metric, value, replicates, unresolved in (
            ("member_excess", found.member_excess, excess, few),
            ("distance_ratio", found.distance_ratio, ratio, few),
            ("copies", found.copies.value, found.copies.replicates, found.copies.unresolved),
        ):
            yield Measurement(
                metric=metric, estimate=Resampled(value=value, replicates=replicates, n=len(made)), threat_model=_LABELS,
                evidence=(table,), unresolved=unresolved,
            )  # fmt: skip


_SCORES = ThreatModel(access="black_box_scores", goal="reconstruction")
_LABELS = ThreatModel(access="black_box_labels", goal="reconstruction")


@dataclass(frozen=True)
class _Exposed:
    """A canary's exposure: exact, or with replicates and how many of the sample took no more bits."""

    name: str
    bits: float
    size: int
    log_perplexity: float
    replicates: tuple[float, ...] = ()
    unresolved: str | None = None
    rank: float | None = None
    below: int | None = None


@dataclass(frozen=True)
class _Windows:
    ids: Tensor
    lines: list[str]
    caution: str


def _read_canaries(path: Path) -> list[Canary]:
    """Canaries of a file.

    Raises:
        UserError: it cannot be read, or holds something else, or two of one name.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        canaries = [Canary(**entry) for entry in held]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "canary"
        raise UserError(
            f"{path}: {field}: {first['msg'].removeprefix('Value error, ')}"
        ) from None  # no secret is repeated
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON list of canaries with 'name', 'text' and 'secret'") from error
    if not canaries or len({canary.name for canary in canaries}) < len(canaries):
        raise UserError(f"{path}: expected canaries of different names, got {[canary.name for canary in canaries]}")
    return canaries


def _enumerated(asked: LanguageModel, group: list[Canary], space: Space) -> list[_Exposed]:
    """Exact ranks among all secrets."""
    import numpy as np

    from audit.privacy.exposure import exposure, rank

    secrets = list(space.all())
    place = {secret: i for i, secret in enumerate(secrets)}
    places = [place[canary.secret] for canary in group]
    bits = asked.bits([group[0].around(secret) for secret in secrets], wanted=places)
    found = []
    for canary, at in zip(group, places, strict=True):
        standing = rank(bits[at], np.delete(bits, at))
        found.append(_Exposed(canary.name, exposure(standing, space.size), space.size, float(bits[at]), rank=standing))
    return found


def _most(found: list[_Exposed]) -> _Exposed:
    """The most exposed canary; where one is sampled, replicates are of the most exposed in each."""
    import numpy as np

    first = max(found, key=lambda one: one.bits)
    sampled = [one.replicates for one in found if one.replicates]
    if not sampled:
        return first
    exact = max((one.bits for one in found if not one.replicates), default=0.0)
    replicates = tuple(float(r) for r in np.maximum(np.max(sampled, axis=0), exact))
    unresolved = next((one.unresolved for one in found if one.unresolved), None)
    return _Exposed(first.name, first.bits, first.size, first.log_perplexity, replicates, unresolved)


def _likely_anyway(control: _Exposed, canaries: int) -> dict[str, str]:
    """Why a canary's exposure means nothing, where a model that never saw it exposes it too, corrected for their number."""
    if control.bits <= math.log2(canaries / _CHANCE):
        return {}
    why = f"canary '{control.name}' is exposed by {control.bits:.1f} bits in a model that never saw it: it is likely by itself"
    return {"exposure": why, "exposure_floor": why}


def _exposure(
    metric: str,
    one: _Exposed,
    dims: dict[str, str],
    sample: int,
    stored: EvidenceRef | None = None,
    told: str = "",
    voids: dict[str, str] | None = None,
) -> Measurement:
    estimate: Exact | Resampled = (
        Resampled(value=one.bits, replicates=one.replicates, n=sample)
        if one.replicates
        else Exact(value=one.bits, n=one.size)
    )
    return Measurement(
        metric=metric, estimate=estimate, dims=dims, threat_model=_SCORES, voids=voids or {}, unresolved=one.unresolved,
        evidence=() if stored is None else (stored,),
        cautions=(f"{math.log2(one.size):.1f} bits at most, of {one.size:,} secrets", *((told,) if told else ())),
    )  # fmt: skip


def _store_exposures(found: list[_Exposed], ctx: Context) -> EvidenceRef:
    import numpy as np

    writer = ctx.evidence("canaries", "table", title="canaries by exposure")
    ranked = sorted(found, key=lambda one: -one.bits)
    writer.append(
        [one.name for one in ranked],
        exposure=np.array([one.bits for one in ranked]),
        rank=np.array([math.nan if one.rank is None else one.rank for one in ranked]),
        secrets=np.array([float(one.size) for one in ranked]),
        log_perplexity=np.array([one.log_perplexity for one in ranked]),
    )
    return writer.ref


def _store_nearest(
    nearest: NDArray[np.int64], distance: NDArray[np.float64], ids: tuple[str, ...], ctx: Context
) -> EvidenceRef:
    """Members by how near a sample came to them, as row ids alone."""
    import numpy as np

    closest = np.full(len(ids), np.inf)
    np.minimum.at(closest, nearest, distance)
    count = np.bincount(nearest, minlength=len(ids))
    order = np.argsort(closest, kind="stable")[: int((count > 0).sum())]
    writer = ctx.evidence("members", "table", title="members nearest to a sample")
    writer.append([ids[i] for i in order], row=order, distance=closest[order], samples=count[order])
    return writer.ref


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """``samples``, and ``members`` with ``held_out`` or neither.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name].astype(np.float64) for name in file.files}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected arrays of numbers in a .npz file ({error})") from error
    if "samples" not in held or ("members" in held) != ("held_out" in held):
        raise UserError(
            f"{path}: expected 'samples', and 'members' with 'held_out' or neither; it holds {', '.join(held)}"
        )
    return held
