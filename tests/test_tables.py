"""Tables of documents are those of the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from voxtral_jax.tables import filled, markdown_table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]

import evaluation_tables  # noqa: E402
import readme  # noqa: E402


@pytest.mark.parametrize(
    ("document", "tables"),
    [
        (readme.README, readme.TABLES),
        (evaluation_tables.DOCUMENT, evaluation_tables.TABLES),
    ],
    ids=["README.md", "docs/evaluation.md"],
)
def test_tables_are_those_of_the_results(
    document: Path, tables: Mapping[str, Callable[[], list[str]]]
) -> None:
    text = document.read_text(encoding="utf-8")
    assert filled(text, {name: table() for name, table in tables.items()}) == text


def test_a_table_takes_its_place_and_no_more() -> None:
    table = markdown_table(("a", "b"), [("1", "2")])
    text = "x\n\n<!-- one -->\n\nold\n\n<!-- end of one -->\n\ny"
    assert filled(text, {"one": table}) == text.replace(
        "old", "| a | b |\n| --- | --- |\n| 1 | 2 |"
    )


def test_a_table_without_a_place_is_missed() -> None:
    with pytest.raises(KeyError, match="decoding"):
        filled("<!-- gpu -->\n\n\n\n<!-- end of gpu -->", {"gpu": [], "decoding": []})


def test_a_missed_target_of_the_model_in_the_box_says_so() -> None:
    assert evaluation_tables.at_most("x", 0.3, 0.2)[-1] == "**missed**"
    assert evaluation_tables.at_most("x", 0.2, 0.2)[-1] == "met"
    assert evaluation_tables.at_least("x", 0.3, 0.2)[-1] == "met"
    assert evaluation_tables.at_least("x", 0.1, 0.2)[-1] == "**missed**"
