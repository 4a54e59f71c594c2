"""A function that answers: a wrapper around a service, or a library that has no loader of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator
from pydantic import Field as Limited

from audit.model import AuditedModel, Capability, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import check_source, check_target, import_callable, source_digest
from audit.registry.loaders import Loader
from audit.registry.loaders._shared import audited, black_box, through_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust


class PythonCallable(Loader):
    """``package.module:function`` from an allowed package (``audit model allow PACKAGE``): labels, probabilities or values.

    It is called with an array ``(N, *shape)`` (or a DataFrame, or a list of texts where the input is text) and answers an array: probabilities ``(N, C)``, class indices or
    class names ``(N,)``, or values ``(N,)``. It is asked and nothing else: no gradients.
    """

    formats: ClassVar = ()
    uri_field: ClassVar = "function"

    function: Annotated[str, AfterValidator(check_target)]
    """``package.module:function``."""
    feed: Literal["array", "frame"] = "array"
    """Of a table: rows as an array with category codes, or as a DataFrame with names and category values."""
    code: str | None = None
    """SHA-256 of the source file that defines the function, taken at registration; another source is refused."""
    micro_batch: Annotated[int, Limited(ge=1)] = 512
    """Rows per call."""

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What the output space gives."""
        return black_box(output)

    def pinned(self, trust: Trust) -> Self:
        """With the digest of the function's source."""
        if self.code is not None:
            return self
        return self.model_copy(update={"code": source_digest(import_callable(self.function, trust))})

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Import the function."""
        from audit.registry.loaders._table import frame
        from audit.text import decode_all as texts

        if files:
            raise UserError(f"loader '{card.loader}' opens no file: give 'package.module:function' in its place")
        if card.output not in ("label", "probability", "value"):
            raise UserError(f"{card.ref}: a callable gives label, probability or value, not '{card.output}'")
        if self.feed == "frame" and not card.spec.tabular:
            raise UserError(f"{card.ref}: feed 'frame' needs a table, the input is {card.spec.a_kind}")
        function = import_callable(self.function, trust)
        check_source(function, self.code, self.function, card.ref)
        text = card.spec.kind == "text"

        def answer(x: NDArray[Any]) -> NDArray[Any]:
            found = function(texts(x) if text else frame(x, card.spec) if self.feed == "frame" else x)
            return class_indices(found, card.classes, card.ref) if card.output == "label" else found

        return audited(
            card, self.capabilities(card.output), through_numpy(answer), native=function, micro_batch=self.micro_batch
        )


def class_indices(labels: Any, classes: tuple[str, ...], ref: str) -> NDArray[Any]:
    """Labels as class indices: numbers are indices already, anything else is a class's name.

    Raises:
        UserError: a name is none of the classes.
    """
    import numpy as np

    found = np.asarray(labels)
    if found.dtype.kind in "iufb":
        return found
    known = {name: index for index, name in enumerate(classes)}
    names = [str(value) for value in found.reshape(-1)]
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"{ref}: the model answers the class '{unknown[0]}', which is not among {', '.join(classes[:10])}"
        )
    return np.array([known[name] for name in names])
