"""Sentences that a run stores in English and a page says in the reader's language: read from the source that writes them.

A sentence with numbers in it is an f-string there and a template here, ``{wrong} of {rows} rows …``, each hole named after what fills it.
`audit.report._told` finds the template of a stored sentence again and says it in another language.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

from audit.finding import Status
from audit.model import Capability
from audit.report._told import JOINTS, SENTENCES

Text = str | tuple[str, ...]
"""A text, or one and many."""
KEYWORDS = {"_": 1, "ngettext": 2}
"""Functions that translate, and how many texts each takes."""
HOLE = r"\{\w*\}"
ROOT = Path(__file__).parents[2]
JUDGED = ("audit/judge/__init__.py", "audit/judge/decision.py")
"""Files whose sentences stand around those of the others, and are recognised first."""
SOURCES = (
    "audit/contradictions.py",
    "audit/engine.py",
    "audit/executors/local.py",
    "audit/pairing.py",
    "audit/run_folder.py",
    "audit/report/_view.py",
    *(f"dashboard/reading/{name}.py" for name in ("evidence", "stored", "trainings")),
    *(f"dashboard/working/{name}.py" for name in ("answers", "drafts")),
    *(f"audit/privacy/{name}.py" for name in ("accounting", "gaussian", "membership", "pii_patterns", "shadow_models")),
    *(f"audit/privacy/{name}.py" for name in ("_estimators", "_stacked_training", "frontier_table")),
    *(
        f"audit/attacks/{name}.py"
        for name in ("__init__", "_columns", "_text_search", "character_edits", "tabular", "word_edits")
    ),
    *(f"audit/datasets/{name}.py" for name in ("_arrays", "_table", "_texts", "image_folder")),
    "audit/explainers/*.py",
    "audit/cli/explain_inputs.py",
    "audit/checks/**/*.py",
)
SPOKEN = ("audit/judge/verdicts.py", "audit/numbers.py")
"""Files whose texts are translated where they stand, and stored in English all the same."""
DAMAGE = (
    "audit/run_folder.py",
    "audit/report/_view.py",
    *(f"dashboard/reading/{name}.py" for name in ("evidence", "stored", "trainings")),
    *(f"dashboard/working/{name}.py" for name in ("answers", "drafts")),
)
"""Files whose errors a page shows."""
UNSAID = (
    {"UserError", "ValueError", "TypeError", "AssertionError", "RuntimeError", "unknown"}  # the command line's
    | {
        "Field",
        "Metric",
        "progress",
        "compile",
        "cast",  # of types
        "getLogger",
        "gettext",
        "ngettext",
        "_",
    }  # declared, fleeting, or translated where they stand
    | {
        "rng",
        "generator",
        "number",
        "remembered",
        "fork",
        "seeded",
        "_seed",
        "ExampleRng",
        "column_names",
    }  # purposes of random draws
)
"""Calls whose texts no run stores, or that a catalogue knows already."""
PARTS = (
    "none",
    *map(str, Capability),
    "test",
    "train",
    "population",
    "test rows",
    "under",
    "over",
    "lower",
    "upper",
    "an image",
    "a table",
    "a text",
    "a series",
)
"""Single words that fill a hole of a sentence."""
UNITS = ("grey level", "pixel value", "characters", "standard deviations")
"""Units of inputs, as data sources and models of the demo declare them."""
COMPOSED = (
    "true {label}, predicted {answer}, explained {aim}: {output} {score}",
    "predicted {answer}, explained {aim}: {output} {score}",
    "true {label}, predicted {answer}",
    "predicted {answer}",
    "rows of {source}, numbered among its test rows",
    "{value} (n = {n})",
    "{listed} and {n} more",
    "severity {n}",
    "mean of reference",
    *(f"{{n}} {status.replace('_', ' ')}" for status in Status),
)
"""Sentences that the source puts together from less than a sentence."""
CODE = {"x", "y", "p", "fpr", "tpr"}
"""Columns that are called by a letter in every language."""
PLURAL = "s"
"""Name of the hole that holds a plural's letter; a translation has no need of it."""
TITLES = {"title", "x_label", "y_label"}
"""Arguments that a chart shows, be it a single word."""
DECLARED = {"controls", "model_config", "remedy"}
"""Attributes of a check that are no sentences."""


def sentences() -> list[Text]:
    """The template of every stored sentence, in the order in which they are tried: what says more first."""
    judged = _written(JUDGED)
    around = [text for text in judged if text[0] == "{"]
    inside = [text for text in [*judged, *_written(SOURCES)] if text not in around]
    spoken = [text for name in SPOKEN for text in called((ROOT / name).read_text(encoding="utf-8"))]
    inside += [text for text in spoken if any(map(_is_sentence, _forms(text)))]
    return list(dict.fromkeys([*sorted(around, key=_fixed), *sorted([*inside, *COMPOSED], key=_fixed), *PARTS, *UNITS]))


def _written(patterns: Sequence[str]) -> list[Text]:
    return [
        text
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
        for text in written(path.read_text(encoding="utf-8"), errors=_shows_errors(path.relative_to(ROOT).as_posix()))
    ]


def _shows_errors(name: str) -> bool:
    """Whether what a file raises as a user's error comes to a page: as damage, or as a check that could not be run."""
    return name in DAMAGE or name.startswith("audit/checks/")


def _forms(text: Text) -> tuple[str, ...]:
    return text if isinstance(text, tuple) else (text,)


def _fixed(text: Text) -> int:
    """Sort key: the more of a text stands fast, the sooner it is tried."""
    return -len(re.sub(HOLE, "", _forms(text)[0]))


def columns() -> list[str]:
    """Names of stored columns and of qualities of maps, as a page writes them: what checks hand to ``append`` and ``add`` by name."""
    calls = [
        node
        for path in sorted(ROOT.glob("audit/checks/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "add")
    ]
    qualities = {
        "top k intersection",
        "rank correlation",
        "deletion gain",
        "insertion gain",
    }  # handed over as a mapping
    return sorted(
        qualities | {keyword.arg.replace("_", " ") for call in calls for keyword in call.keywords if keyword.arg} - CODE
    )


def write() -> None:
    """Bring the list that pages read up to date."""
    SENTENCES.write_text(json.dumps(sentences(), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def called(source: str) -> list[Text]:
    """The texts in calls of ``_`` and ``ngettext``, those inside f-strings too, which Babel's own reader does not see."""
    found: list[Text] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KEYWORDS:
            arguments = node.args[: KEYWORDS[node.func.id]]
            texts = tuple(a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str))
            if len(texts) == KEYWORDS[node.func.id]:
                found.append(texts if len(texts) > 1 else texts[0])
    return found


def written(source: str, *, errors: bool = False) -> Iterator[str]:
    """Sentences of a module: texts of two words or more that are no documentation, outside the calls of `UNSAID`.

    Args:
        errors: count what is raised as a user's error too.
    """
    unsaid = UNSAID - {"UserError"} if errors else UNSAID
    yield from _below(ast.parse(source), unsaid)


def _below(node: ast.AST, unsaid: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # documentation
    if isinstance(node, ast.Call) and _name(node.func) in unsaid:
        return
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and _target(node) in DECLARED:
        return
    if isinstance(node, ast.keyword) and node.arg in TITLES and _is_text(node.value):
        yield from filter(None, [template(node.value)])
    elif _is_text(node) and _is_sentence(text := template(node)):
        yield text
    inner = _parts(node) if _is_sum(node) or isinstance(node, ast.JoinedStr) else list(ast.iter_child_nodes(node))
    for child in inner:
        if not (inner and isinstance(child, ast.Constant) and _is_text(node)):
            yield from _below(child, unsaid)


def _is_text(node: ast.AST) -> TypeGuard[ast.expr]:
    return (
        isinstance(node, ast.JoinedStr)
        or _is_sum(node)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    )


def _is_sum(node: ast.AST) -> TypeGuard[ast.BinOp]:
    """Whether texts are joined by ``+``."""
    return (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and (_is_text(node.left) or _is_text(node.right))
    )


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    return _name(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _is_sentence(text: str) -> bool:
    """Whether it holds words of prose, two or more, and nothing that only code holds."""
    said = re.sub(HOLE, " ", text)
    return (
        len(text.split()) > 1
        and bool(re.search("[a-z]{3}", said))
        and not re.search(r"^tuple\[|[\\_]\w*\(|__|\(\?|\n| \| ", said)
    )


def template(node: ast.expr) -> str:
    """A text of the source as ``str.format`` reads it: what is filled in is named, and one hole where several meet.

    What only joins it to other text, such as a comma before it, is not part of it.
    """
    text, seen = "", Counter[str]()
    for literal, names in _pieces(node):
        text += literal.replace("{", "{{").replace("}", "}}")
        if names:
            name = "_".join(dict.fromkeys(names))
            seen[name] += 1
            text += f"{{{name}}}" if seen[name] == 1 else f"{{{name}_{seen[name]}}}"
    text = text.strip(JOINTS)
    return text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text


def _pieces(node: ast.expr) -> list[tuple[str, list[str]]]:
    """The stretches of a text, each with the names of what follows it."""
    pieces: list[tuple[str, list[str]]] = [("", [])]
    for part in _parts(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            literal, names = pieces[-1]
            pieces[-1:] = [(literal, names), (part.value, [])] if names else [(literal + part.value, [])]
        else:
            pieces[-1][1].append(_name(part))
    return pieces


def _parts(node: ast.expr) -> list[ast.expr]:
    """What a text is put together from."""
    if isinstance(node, ast.JoinedStr):
        return [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
    if _is_sum(node):
        return [*_parts(node.left), *_parts(node.right)]
    return [node]


def _name(node: ast.AST) -> str:
    """A word for what an expression gives: that of the variable that it is made of."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_") or name
        case ast.BinOp(left=ast.Constant(value="s"), op=ast.Mult()):
            return PLURAL
        case ast.IfExp(body=ast.Constant(value="" | "s"), orelse=ast.Constant(value="" | "s")):
            return PLURAL
        case ast.Call(args=[first, *_]) if not isinstance(first, ast.Constant):
            return _name(first) if _name(node.func) in ("len", "int", "float", "str", "show", "join", "sorted", "sum", "max", "min", "round") else _name(node.func)  # fmt: skip
        case ast.Call(func=called):
            return _name(called)
        case ast.Subscript(value=inner) | ast.Starred(value=inner) | ast.BinOp(left=inner) | ast.IfExp(body=inner):
            return _name(inner)
        case ast.GeneratorExp(elt=inner) | ast.ListComp(elt=inner):
            return _name(inner)
        case ast.BoolOp(values=[first, *_]):
            return _name(first)
    return "value"
