"""What every benchmark says beside its figures, and where they go."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jax


def circumstances() -> dict[str, str]:
    """Device, version and date."""
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }


def write(result: dict[str, Any], out: Path | None) -> None:
    """Writes a result as JSON, if there is a file for it."""
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def tell(result: dict[str, Any], out: Path | None) -> None:
    """Prints a result, a line for each figure, and writes it."""
    width = max(map(len, result))
    for name, value in result.items():
        shown = f"{value:,.4g}" if isinstance(value, float) else value
        print(f"{name:{width}} {shown}")
    write(result, out)
