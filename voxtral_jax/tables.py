"""Tables of Markdown, and documents whose tables are written from results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def filled(text: str, tables: Mapping[str, Sequence[str]]) -> str:
    """A document with these tables in their places.

    Args:
        text: a table stands in it between `<!-- NAME -->` and `<!-- end of NAME -->`.
        tables: name -> lines.

    Raises:
        KeyError: a table has no place in the text.
    """
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise KeyError(begin.strip())
        text = before + begin + "\n".join(lines).strip() + rest[rest.index(end) :]
    return text


def fill(document: Path, tables: Mapping[str, Callable[[], list[str]]]) -> None:
    """Writes a document's tables anew (see `filled`); says whether anything changed."""
    before = document.read_text(encoding="utf-8")
    after = filled(before, {name: table() for name, table in tables.items()})
    document.write_text(after, encoding="utf-8")
    print("changed" if after != before else "as it was", file=sys.stderr)
