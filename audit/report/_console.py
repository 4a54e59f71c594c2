"""A verdict on the terminal: a compact table where there is one, plain lines for a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from audit.finding import Bound, Finding, Status
from audit.report._measured import grids, lines
from audit.report._view import RunVerdict, RunView
from audit.report._words import STATUS, by_weight, clean, gate_of, interval_of, n_of, value_of

if TYPE_CHECKING:
    from audit.judge.verdicts import Verdict
    from audit.run_folder import Run

WIDE = 120
"""Columns from which on every number has a column of its own."""
_STYLES = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.VOID: "bold magenta",
    Status.ERROR: "bold magenta",
    Status.NOT_APPLICABLE: "dim",
    Status.INFO: "dim",
    Status.WAIVED: "cyan",
}


def render(run: Run, everything: bool = False) -> list[RenderableType]:
    """A stored run: its gates, then the verdict in a sentence. `everything` adds every number without a gate."""
    view = RunView(run)
    parts: list[RenderableType] = [_line("damaged: ", problem, Status.ERROR) for problem in view.problems]
    if view.gates:
        parts.append(Gates(view.gates))
    if everything:
        parts += _numbers(view)
    elif view.unjudged:
        parts.append(Text(f"{len(view.unjudged)} numbers were measured and not judged: --all shows them"))
    return [*parts, *_attention(view.gates), _verdict(view.verdict)]


def render_findings(findings: Sequence[Finding], verdict: Verdict) -> list[RenderableType]:
    """Findings that are not, or not yet, stored."""
    gates = sorted((f for f in findings if f.gated or f.status in (Status.ERROR, Status.VOID)), key=by_weight)
    parts: list[RenderableType] = [Gates(gates)] if gates else []
    return [*parts, *_attention(gates), _verdict(RunVerdict.judged(verdict))]


class Gates:
    """The gates: a table on a terminal; elsewhere one line each, which ``Console.print(..., soft_wrap=True)`` leaves whole."""

    def __init__(self, gates: Sequence[Finding]) -> None:
        self.gates = gates

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for where the output goes."""
        if not console.is_terminal:
            yield from self._lines()
        else:
            yield self._table() if options.max_width >= WIDE else self._narrow()

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("status", no_wrap=True)
        table.add_column("gate", overflow="fold", ratio=1)
        table.add_column("required", no_wrap=True)
        table.add_column("measured", no_wrap=True)
        table.add_column("interval", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        for f in self.gates:
            table.add_row(
                _status(f.status),
                Text(_name(f)),
                Text(clean(f.required or "–")),
                Text(value_of(f)),
                Text(interval_of(f) or "–"),
                n_of(f),
            )
        return table

    def _narrow(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold", ratio=1)
        for f in self.gates:
            table.add_row(_status(f.status), Text.assemble(_name(f), (f"\n{_numbers_of(f)}", "dim")))
        return table

    def _lines(self) -> Iterator[Text]:
        for f in self.gates:
            numbers = _numbers_of(f)
            yield Text(f"{STATUS[f.status].icon} {STATUS[f.status].word}: {_name(f)}{f' {numbers}' if numbers else ''}")


def _name(finding: Finding) -> str:
    return clean(finding.id.removesuffix(f" {finding.required}"))


def _numbers_of(finding: Finding) -> str:
    """``>= 0.6: 0.4593 (0.4166 to 0.5023, n = 540)``."""
    measured = value_of(finding) if finding.estimate is not None else ""
    if interval := interval_of(finding):
        measured += f" ({interval}, n = {n_of(finding)})"
    return ": ".join(part for part in (clean(finding.required or ""), measured) if part)


def _status(status: Status) -> Text:
    return Text(f"{STATUS[status].icon} {STATUS[status].word}", style=_STYLES[status])


def _line(start: str, text: str, status: Status) -> Text:
    return Text.assemble((start, _STYLES[status]), clean(text))


def _attention(gates: Sequence[Finding]) -> list[RenderableType]:
    """Why, of everything that did not simply pass; at most ten, for the reports hold all."""
    loud = [f for f in gates if f.status is not Status.PASS or f.cautions or _unproven(f)]
    out: list[RenderableType] = []
    for f in loud[:10]:
        if f.status is not Status.PASS:
            out.append(_line(f"{STATUS[f.status].word}: ", f"{f.title or f.check}: {f.message}", f.status))
        elif _unproven(f):
            out.append(_line("not falsified: ", f"{f.title or f.check}: {f.message}", f.status))
        out += [_line("caution: ", f"{f.title or f.check}: {caution}", Status.INCONCLUSIVE) for caution in f.cautions]
    if len(loud) > 10:
        out.append(Text(f"… and {len(loud) - 10} more: the HTML report shows them"))
    return out


def _unproven(finding: Finding) -> bool:
    """Whether it passed for want of a proof of the opposite: a bound that could have missed the gate, and did not."""
    gate, estimate = gate_of(finding), finding.estimate
    if finding.status is not Status.PASS or gate is None or not isinstance(estimate, Bound):
        return False
    return not gate.holds_for(*estimate.interval())


def _numbers(view: RunView) -> list[RenderableType]:
    parts: list[RenderableType] = []
    undivided = lines(view)
    if undivided:
        table = Table("check", "metric", "measured", "interval", "n", box=None, pad_edge=False, title_justify="left")
        for line in undivided:
            cell = line.cell
            table.add_row(Text(clean(line.step)), Text(clean(line.title)), cell.value, cell.interval or "–", cell.n)
        parts.append(table)
    for grid in grids(view):
        table = Table(*map(clean, (*grid.keys, *grid.columns)), box=None, pad_edge=False)
        for key, cells in grid.shown:
            told = [cells.get(column) for column in grid.columns]
            shown = ["–" if c is None else f"{c.value} ({c.interval})" if c.interval else c.value for c in told]
            table.add_row(*(Text(clean(part)) for part in (*key, *shown)))
        parts += [Text(clean(grid.title), style="bold"), table]
    return parts


def _verdict(told: RunVerdict) -> Text:
    icon = STATUS[told.status].icon
    return Text.assemble((f"{icon} {told.headline}", _STYLES[told.status]), f": {clean(told.said)}")
