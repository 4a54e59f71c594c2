"""``audit export``: stored evidence as NumPy files, one per series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from audit.cli.runs import RUN
from audit.cli.scenarios import HOME
from audit.parameters import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    run: Annotated[str, RUN] = "latest",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to; made where there is none.")] = Path(
        "evidence"
    ),
    kind: Annotated[
        str,
        typer.Option(
            "--kind", "-k", help="adversarial, attributions, outcomes, curve, roc, table …; 'all' for every kind."
        ),
    ] = "adversarial",
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Write stored evidence as .npz files: adversarial examples with their labels, attributions, outcomes per row.

    Every file holds the stored arrays by name, the row ids as `ids`, and what describes them as JSON in `meta`.
    """
    import json

    import numpy as np

    from audit.run_folder import safe_name
    from audit.stored import find_run

    stored = find_run(run, home)
    refs = {(f.step, ref.path): ref for f in stored.findings for ref in f.evidence}
    chosen = {key: ref for key, ref in refs.items() if kind in (ref.kind, "all")}
    if not chosen:
        kinds = ", ".join(sorted({ref.kind for ref in refs.values()})) or "none"
        raise UserError(f"run {stored.name} holds no evidence of kind '{kind}'; it holds: {kinds}")
    for (step, path), ref in sorted(chosen.items()):
        evidence = stored.evidence(ref)
        target = out / safe_name(step) / f"{Path(path).name}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Any] = {name: evidence.column(name) for name in evidence.fields}
        meta = json.dumps(evidence.meta, sort_keys=True)
        np.savez_compressed(target, ids=np.array(evidence.ids), meta=np.array(meta), **columns)
        shapes = ", ".join(f"{name} {'×'.join(map(str, values.shape))}" for name, values in columns.items())
        typer.echo(f"wrote {target}: {shapes}")
