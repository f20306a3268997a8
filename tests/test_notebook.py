"""The notebook is that of its source, keeps its outputs, and runs from top to bottom."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks" / "quickstart.py"
NOTEBOOK = SOURCE.with_suffix(".ipynb")

for package in ("nbclient", "nbformat", "ipykernel", "matplotlib"):
    pytest.importorskip(package, reason="needs voxtral-jax[notebook]")

sys.path.insert(0, str(ROOT / "scripts"))
import nbformat  # noqa: E402
from notebook import build, execute, read_cells  # noqa: E402

needs_own = pytest.mark.skipif(
    not (ROOT / "voxtral_jax" / "assets" / "nano" / "consolidated.safetensors").is_file(),
    reason="voxtral_jax/assets/nano has no weights in this checkout",
)
needs_notebook = pytest.mark.skipif(
    not NOTEBOOK.is_file(), reason="notebooks/quickstart.ipynb has not been made yet"
)


def test_a_source_has_cells_of_code_and_text() -> None:
    cells = read_cells("# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\na = 1\n\nb = 2\n")
    assert cells == [("markdown", "# Title\n\nWords."), ("code", "a = 1\n\nb = 2")]


@needs_notebook
def test_the_notebook_is_made_of_its_source_and_keeps_its_outputs() -> None:
    kept = nbformat.read(NOTEBOOK, as_version=4)
    built = build(SOURCE.read_text(encoding="utf-8"))
    assert [(c.cell_type, c.source) for c in kept.cells] == [
        (c.cell_type, c.source) for c in built.cells
    ], "run: python scripts/notebook.py notebooks/quickstart.py"
    kinds = {kind for c in kept.cells for o in c.get("outputs", []) for kind in o.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    written = "".join(
        str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
        for c in kept.cells
        for o in c.get("outputs", [])
    )
    assert not re.search(r"/(home|root|tmp|work|usr)/", written)


@needs_own
def test_the_notebook_runs_from_top_to_bottom() -> None:
    notebook = build(SOURCE.read_text(encoding="utf-8"))
    execute(notebook, SOURCE.parent)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert sum("<audio" in data.get("text/html", "") for data in shown) == 8
    assert "image/png" in shown[-1]
