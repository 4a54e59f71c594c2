"""Transfer: an attack on a copy of the model, trained on the model's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr

from audit.attacks import Attack, Candidates
from audit.attacks._ball import Ball
from audit.attacks._gradients import logits_and_gradient, margin, require_ball
from audit.attacks._surrogate import Answers, Architecture, ask, rows_to_ask, train
from audit.attacks._tally import Tally
from audit.finding import Access, ThreatModel
from audit.model import AuditedModel, Capability, implied
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.rng import ExampleRng


class _ByAnswers:
    """What the base class holds per attack, told by what the surrogate learns from; the class answers for its default."""

    def __init__(self, scores: Any, labels: Any) -> None:
        self._of = {"scores": scores, "labels": labels}

    def __get__(self, attack: Transfer | None, owner: type[Transfer]) -> Any:
        return self._of["scores" if attack is None else attack.answers]


class Transfer(Attack):
    """White-box attack on a surrogate, with the model itself asked about the result only.

    The surrogate is a small network that learns the model's answers to rows of the population or, without one, of the training
    set; never to a row that is tested on. Along its gradient goes a momentum iteration on the margin that takes all its steps: an
    input that barely fools the surrogate seldom fools anyone else. After every restart the model is asked once.

    An example's queries are its share of the surrogate's (rounded up, over the test rows that the model gets right) and the restarts
    it needed.

    Source: Papernot et al. 2017, arXiv:1602.02697 (surrogates); Dong et al. 2018, arXiv:1710.06081 (momentum).
    """

    access: ClassVar[Access] = _ByAnswers("black_box_scores", "black_box_labels")  # type: ignore[assignment]
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = _ByAnswers(  # type: ignore[assignment]
        frozenset({Capability.PROBABILITIES}), frozenset({Capability.LABELS})
    )

    answers: Answers = "scores"
    """What the surrogate learns from: ``scores`` or ``labels``."""
    queries: int = Field(2000, ge=10)
    """Rows that the model is asked about for the surrogate, all examples together; fewer where the data has fewer."""
    architecture: Architecture = "auto"
    """The surrogate's network: ``cnn`` for images, ``mlp`` for anything, ``auto`` for the one that fits."""
    epochs: int = Field(30, ge=1)
    """Passes over the surrogate's rows."""
    steps: int = Field(20, ge=1)
    """Gradient steps on the surrogate, in each restart."""
    step_size: Real = Field(0.125, gt=0)
    """Length of a step as a share of eps."""
    momentum: Real = Field(1.0, ge=0)
    """Share of the former direction that is kept."""
    restarts: int = Field(5, ge=1)
    """Random starts; a later one takes on only what the model still gets right."""

    _surrogate: AuditedModel | None = PrivateAttr(None)
    _share: int = PrivateAttr(0)

    def fit(self, model: AuditedModel, data: AuditData, ctx: Context) -> Transfer:
        """The attack with its surrogate.

        Raises:
            UserError: the data has no rows but those tested on.
        """
        import numpy as np
        import torch

        rows = rows_to_ask(data, "attack 'transfer'")
        order = np.sort(ctx.generator("surrogate rows").permutation(len(rows))[: self.queries])
        x = model.tensor(rows.take(order))
        network = train(
            model.spec,
            x,
            ask(model, x, self.answers),
            architecture=self.architecture,
            epochs=self.epochs,
            seed=ctx.number("surrogate"),
        )
        attacked = int((model.labels_of(model.outputs(data.test)).cpu() == torch.as_tensor(data.test.labels)).sum())
        fitted = self.model_copy()
        fitted._share = -(-len(x) // max(attacked, 1))
        fitted._surrogate = AuditedModel(
            name=f"surrogate of {model.name}",
            digest=model.digest,
            task="classification",
            classes=model.classes,
            spec=model.spec,
            output="logit",
            capabilities=implied("logit", gradients=True, layers=True),
            forward=network,
            module=network,
            micro_batch=model.micro_batch,
            device=model.device,
        )
        return fitted

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: it was not fit, the threat model has no eps or no norm, or its cap on queries is spent on the surrogate alone.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        norm, eps = require_ball("transfer", self.norms, threat.norm, threat.eps)
        if self._surrogate is None:
            raise UserError("attack 'transfer' has no surrogate yet: call `fit` first")
        if threat.queries is not None and threat.queries <= self._share:
            raise UserError(
                f"attack 'transfer' took {self._share} queries per example for its surrogate, and the threat model allows "
                f"{threat.queries}: lower its `queries`, or raise the cap"
            )
        x, y = x.detach(), y.to(x.device)
        tally = Tally(x, threat.queries)
        tally.queries += self._share
        balls = Ball.around(x, norm, eps, threat.bounds)
        for _ in range(self.restarts):
            left = tally.left()
            left = left[tally.affordable(left)]
            if not len(left):
                break
            moved = self._climb(self._surrogate, balls.take(left), y[left], rng.take(left.cpu()))
            tally.asked(left)
            tally.record(left, model.predict(moved) != y[left], moved)
        return Candidates(tally.x, tally.queries, tally.gradients)

    def _climb(self, surrogate: AuditedModel, balls: Ball, y: Tensor, rng: ExampleRng) -> Tensor:
        """One restart on the surrogate, ``(N, *shape)``."""
        import torch

        x, direction = balls.start(rng), torch.zeros_like(balls.center)
        for _ in range(self.steps):
            _, gradient = logits_and_gradient(surrogate, x, lambda logits, at: margin(logits, y[at]))
            size = gradient.abs().flatten(1).sum(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (x.dim() - 1))
            direction = self.momentum * direction + gradient / size
            x = balls.project(balls.ascend(x, direction, self.step_size * balls.eps))
        return x
