"""ONNX models through onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field as Limited

from audit.model import AuditedModel, Capability, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._batch_size import any_batch_size
from audit.registry.loaders._shared import audited, black_box, only_file, through_numpy
from audit.registry.loaders.python_callable import class_indices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust

_NUMBERS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
_TEXT = "tensor(string)"
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")


class Onnx(Loader):
    """An ONNX file, run by onnxruntime on the CPU: scores without gradients.

    The whole model must be in the file: external data, which names other files, is refused. Inputs are cast to the type that
    the model declares. A classifier with a label and a probability output (as skl2onnx writes it, with or without ZipMap) is
    understood; a table may come as one input, or as one per column.
    """

    formats: ClassVar = ("onnx",)

    output_name: str | None = None
    """Which of several outputs to read."""
    micro_batch: Annotated[int, Limited(ge=1)] = 512
    """Rows per run."""

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What the output space gives."""
        return black_box(output)

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Probabilities where a label and its probabilities come out."""
        path = only_file(files, "onnx")
        session = _session(path, path.name)
        labelled = len(session.get_outputs()) > 1 and _is_label(session.get_outputs()[0])
        return Inferred(output="probability" if labelled and self.output_name is None else None)

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Open a session and match inputs and outputs with the card."""
        session = _session(only_file(files, card.loader), card.ref)
        output = self._output(session, card)
        inputs = session.get_inputs()
        feed = _single_feed(inputs[0], card) if len(inputs) == 1 else _column_feeds(inputs, card)

        def ask(x: NDArray[Any]) -> NDArray[Any]:
            try:
                (found,) = session.run([output], feed(x))
            except Exception as error:  # onnxruntime's exceptions share no base class of their own
                raise UserError(f"{card.ref}: onnxruntime cannot run the model: {one_line(error)}") from error
            return _read(found, card)

        sizes = [i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], int)]
        forward = any_batch_size(through_numpy(ask), max(sizes, default=1), min(sizes, default=None))
        return audited(card, self.capabilities(card.output), forward, native=session, micro_batch=self.micro_batch)

    def _output(self, session: Any, card: ModelCard) -> str:
        """The name of the output to read: the one named, or the only one of the kind that the card asks for."""
        outputs = session.get_outputs()
        names = [o.name for o in outputs]
        if self.output_name is not None:
            if self.output_name not in names:
                raise UserError(f"{card.ref}: the model has no output '{self.output_name}'; it has {', '.join(names)}")
            return self.output_name
        fitting = [o for o in outputs if (_is_label(o) if card.output == "label" else _is_scores(o))]
        if len(fitting) != 1:
            shown = ", ".join(f"{o.name}: {o.type}" for o in outputs)
            raise UserError(
                f"{card.ref}: {len(fitting) or 'none'} of the model's outputs ({shown}) can be output '{card.output}': "
                "name one as parameter 'output_name'"
            )
        return str(fitting[0].name)


def _session(path: Path, ref: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime is not installed: pip install 'assay[onnx]'") from error
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        # from memory: a model that names further files has no folder to find them in
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{ref}: onnxruntime cannot open the model: {one_line(error)}") from error


def _is_label(output: Any) -> bool:
    return output.type in ("tensor(int64)", "tensor(int32)", _TEXT)


def _is_scores(output: Any) -> bool:
    return output.type in _FLOATS or output.type.startswith("seq(map(")


def _single_feed(declared: Any, card: ModelCard) -> Any:
    """Rows → the feed of a model with one input."""
    if declared.type not in _NUMBERS:
        raise UserError(f"{card.ref}: input '{declared.name}' is a {declared.type}; an audit feeds numbers")
    shape = tuple(declared.shape[1:])
    fits = len(shape) == len(card.spec.shape) and all(
        not isinstance(a, int) or a == b for a, b in zip(shape, card.spec.shape, strict=True)
    )
    if not fits:
        shown = ", ".join(str(s) for s in shape)
        raise UserError(f"{card.ref}: the model takes inputs of shape ({shown}), the input spec says {card.spec.shape}")
    dtype = _NUMBERS[declared.type]
    return lambda x: {declared.name: x.astype(dtype)}


def _column_feeds(inputs: list[Any], card: ModelCard) -> Any:
    """Rows → the feed of a model with one input ``(N, 1)`` per column."""
    from audit.registry.loaders._shared import column_order
    from audit.registry.loaders._table import decoded

    if not card.spec.tabular:
        raise UserError(
            f"{card.ref}: the model takes {len(inputs)} inputs; an audit feeds one tensor or the columns of a table"
        )
    order = column_order([i.name for i in inputs], card.spec, card.ref)
    for declared in inputs:
        if declared.type not in _NUMBERS and declared.type != _TEXT:
            raise UserError(
                f"{card.ref}: input '{declared.name}' is a {declared.type}; an audit feeds numbers and categories"
            )

    def feed(x: NDArray[Any]) -> dict[str, NDArray[Any]]:
        fed = {}
        for declared, place in zip(inputs, order, strict=True):
            field, column = card.spec.fields[place], x[:, place]
            if declared.type == _TEXT:
                values = decoded(column, field) if field.kind == "category" else column
                fed[declared.name] = values.astype(str).astype(object).reshape(-1, 1)
            else:
                fed[declared.name] = column.astype(_NUMBERS[declared.type]).reshape(-1, 1)
        return fed

    return feed


def _read(found: Any, card: ModelCard) -> NDArray[Any]:
    """An output as scores or labels."""
    import numpy as np

    if card.output == "label":
        return class_indices(np.asarray(found).reshape(-1), card.classes, card.ref)
    if isinstance(found, list):
        return _read_maps(found, card)
    return np.asarray(found)


def _read_maps(found: list[dict[Any, float]], card: ModelCard) -> NDArray[Any]:
    """ZipMap's answers, one mapping from class to probability per row, in the order of the card's classes."""
    import numpy as np

    keys = list(found[0]) if found else []
    by_name = {str(key): key for key in keys}
    if set(by_name) == set(card.classes):
        order = [by_name[name] for name in card.classes]
    elif sorted(keys, key=str) == sorted(range(len(card.classes)), key=str):
        order = list(range(len(card.classes)))
    else:
        raise UserError(
            f"{card.ref}: the model answers the classes {', '.join(map(str, keys[:10]))}, declared were {', '.join(card.classes[:10])}"
        )
    return np.array([[row[key] for key in order] for row in found])
