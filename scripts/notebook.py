"""Makes a notebook of its source and runs it: `python scripts/notebook.py notebooks/quickstart.py`.

The source is plain Python: `# %%` begins a cell of code, `# %% [markdown]` one of text. The
notebook with its outputs is written beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from voxtral_jax.files import replacing

CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)
TIMEOUT = 600
"""Seconds that a cell may take."""


def read_cells(source: str) -> list[tuple[str, str]]:
    """Kind ("code" or "markdown") and content of each cell."""
    _, *pieces = CELL.split(source)
    cells = []
    for markdown, content in zip(pieces[::2], pieces[1::2], strict=True):
        content = content.strip()
        if markdown:
            content = re.sub(r"^# ?", "", content, flags=re.MULTILINE)
        cells.append(("markdown" if markdown else "code", content))
    return cells


def build(source: str) -> Any:
    """The notebook of a source, without outputs."""
    from nbformat import v4

    new = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell}
    cells = [
        new[kind](content, id=f"cell-{i}") for i, (kind, content) in enumerate(read_cells(source))
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def execute(notebook: Any, folder: Path) -> None:
    """Runs the cells in a fresh kernel, which works in `folder`; outputs go into the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        # When each cell ran would be the only change of a second run.
        cell.metadata.pop("execution", None)
        # Warnings name paths of the machine.
        kept = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        if cell.cell_type == "code":
            cell.outputs = kept


def main(
    source: Annotated[Path, typer.Argument(help="the notebook's source (.py)")],
    run: Annotated[bool, typer.Option(help="run it, and keep the outputs")] = True,
) -> None:
    """Writes the notebook beside its source."""
    import nbformat

    notebook = build(source.read_text(encoding="utf-8"))
    if run:
        execute(notebook, source.parent)
    target = source.with_suffix(".ipynb")
    with replacing(target) as temporary:
        nbformat.write(notebook, temporary)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
