"""Files appear whole or not at all, and lists of JSON lines outlive a kill at any moment."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = r"\.tmp-[0-9a-f]{16}"
"""How names end that `replacing` writes to, as a regular expression."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when all went well."""
    path = Path(path)
    # Not the process's number: in containers it is 1 everywhere.
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines, if there is one; a line that a kill cut off is left out."""
    if not file.exists():
        return []
    found = []
    # Of bytes: a text's own line breaks (U+2028) part no lines, and half a character is bad JSON.
    for line in file.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append_line(file: Path, entry: dict[str, Any]) -> None:
    """Adds a JSON line; it starts with the newline, so that no cut off line swallows it."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write("\n" + json.dumps(entry, ensure_ascii=False))
