"""Writes the tables of docs/evaluation.md from the JSON files in `docs/results/`.

    python scripts/evaluation_tables.py

`docs/evaluation.md` says which command wrote which file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxtral_jax.evaluation.figures import ALL, Figures
from voxtral_jax.evaluation.report import title
from voxtral_jax.tables import fill, markdown_table

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "evaluation.md"
RESULTS = ROOT / "docs" / "results"
STARTS = ROOT / "benchmarks" / "results" / "cold-start-nano-cpu.json"
CLONES = ("clone-3s", "clone-10s", "cross-3s", "cross-10s")
TONGUES = {"de": 0.2, "es": 0.15, "fr": 0.15, "it": 0.15, "ja": 0.15, "ko": 0.2, "pt": 0.15}
TONGUES |= {"zh": 0.15}
"""Language -> most character errors that it should have."""

Conditions = dict[str, dict[str, Figures]]
"""Condition -> language -> figures."""


def read(name: str) -> Any:
    """What one evaluation found."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def eight_a_language() -> Conditions:
    """All conditions, of eight sentences (or a minute) in each language."""
    found: Conditions = read("nano")["figures"]
    presets, long = read("nano-voices")["figures"], read("nano-long")["figures"]
    order = ("recording", "codec", "preset", *CLONES, "long")
    return {name: (found | presets | long)[name] for name in order}


def english() -> list[Figures]:
    """All English sentences in presets, with two seeds."""
    return [read(f"nano-english{seed}")["figures"]["preset"]["en"] for seed in ("", "-seed1")]


def others() -> dict[str, Figures]:
    """All sentences that are not English in presets."""
    found: dict[str, Figures] = read("nano-languages")["figures"]["preset"]
    return found


def targets() -> list[str]:
    """What was wanted of the model in the box, and what came out."""
    some, first, second, rest = eight_a_language(), *english(), others()
    codec, starts = some["codec"][ALL], json.loads(STARTS.read_text(encoding="utf-8"))
    spoken = (first, second, rest[ALL])
    clips = sum(x["clips"] for x in spoken)
    lost = sum(x["failures"] + x["empty"] + x["cut"] for x in spoken) / clips
    below = some["recording"][ALL]["mos"] - codec["mos"]
    rows = [
        at_most("English word errors, presets", first["wer"], 0.10, "{:.1%}"),
        at_most("the same, another seed", second["wer"], 0.10, "{:.1%}"),
        *(
            at_most(f"character errors, presets: {name}", rest[name]["cer"], most, "{:.1%}")
            for name, most in TONGUES.items()
        ),
        at_least("clones of 3 s identified among 10", clone(some, "clone-3s"), 0.8, "{:.1%}"),
        at_least("clones of 10 s", clone(some, "clone-10s"), 0.9, "{:.1%}"),
        at_least(
            "English reference of 3 s, Spanish speech", clone(some, "cross-3s", "es"), 0.6, "{:.0%}"
        ),
        at_least("codec: PESQ", codec["pesq"], 2.3),
        at_least("codec: ESTOI", codec["estoi"], 0.8, "{:.3f}"),
        at_most("codec: DistillMOS below the recordings'", below, 0.6),
        at_least("DistillMOS, English presets", first["mos"], 3.5),
        at_least("DistillMOS, other presets", rest[ALL]["mos"], 3.5),
        at_least("DistillMOS, clones of 3 s", some["clone-3s"][ALL]["mos"], 3.5),
        at_least("DistillMOS, clones of 10 s", some["clone-10s"][ALL]["mos"], 3.5),
        at_most(f"failed, silent or cut, of {clips:.0f} utterances", lost, 0.01, "{:.1%}"),
        at_least("a minute: last to first 10 s", some["long"][ALL]["drift"], 0.75, "{:.3f}"),
        at_most("real-time factor", read("nano")["speed"]["real_time_factor"], 0.3),
        at_most("s to 5 s of saved audio", starts["full_cache"]["total"], 6, "{:.1f}"),
        at_most("the same, nothing compiled", starts["empty_cache"]["total"], 25, "{:.1f}"),
    ]
    return markdown_table(("what", "target", "measured", ""), rows)


def clone(some: Conditions, condition: str, language: str = ALL) -> float:
    """Share of a condition's clones that are nearest to their own reference."""
    return some[condition][language]["identified"]


def at_most(what: str, value: float, goal: float, shown: str = "{:.2f}") -> Sequence[str]:
    """A row of `targets` where less is better."""
    return _row(what, f"at most {shown.format(goal)}", shown.format(value), value <= goal)


def at_least(what: str, value: float, goal: float, shown: str = "{:.2f}") -> Sequence[str]:
    """A row of `targets` where more is better."""
    return _row(what, f"at least {shown.format(goal)}", shown.format(value), value >= goal)


def _row(what: str, goal: str, value: str, met: bool) -> Sequence[str]:
    return what, goal, value, "met" if met else "**missed**"


def conditions() -> list[str]:
    """Eight sentences a language in all conditions."""
    columns = {
        "word errors, English": ("en", "wer", "{:.0%}"),
        "character errors": (ALL, "cer", "{:.0%}"),
        "without runaways": (ALL, "cer_kept", "{:.0%}"),
        "DistillMOS": (ALL, "mos", "{:.2f}"),
        "similarity": (ALL, "similarity", "{:.2f}"),
        "identified": (ALL, "identified", "{:.0%}"),
        "PESQ": (ALL, "pesq", "{:.2f}"),
        "ESTOI": (ALL, "estoi", "{:.3f}"),
        "mel": (ALL, "mel", "{:.2f}"),
    }
    rows = []
    for name, found in eight_a_language().items():
        cells = (shown_of(found, *column) for column in columns.values())
        rows.append((title(name), *cells))
    return markdown_table(("", *columns), rows)


def bounds() -> list[str]:
    """What the best of models could have, with this codec and without, of clones."""
    some = eight_a_language()
    head = ("reference", "", "clones", "codec", "recordings")
    rows = [
        (
            title(name),
            what,
            *(
                shown_of(some[name], ALL, figure + kind, shown)
                for kind in ("", "_codec", "_recording")
            ),
        )
        for name in CLONES
        for what, figure, shown in (
            ("similarity", "similarity", "{:.2f}"),
            ("identified", "identified", "{:.0%}"),
        )
    ]
    return markdown_table(head, rows)


def languages() -> list[str]:
    """Character errors and naturalness in each language."""
    some, rest = eight_a_language(), others()
    chosen: list[tuple[str, Mapping[str, Figures], str, str]] = [
        ("**presets, all 290 sentences**", rest, "cer", "{:.0%}"),
        ("without runaways", rest, "cer_kept", "{:.0%}"),
        ("DistillMOS", rest, "mos", "{:.2f}"),
        *(
            (title(name) + ", eight sentences", some[name], "cer", "{:.0%}")
            for name in ("preset", "clone-3s", "clone-10s", "codec", "recording")
        ),
    ]
    rows = [
        (what, *(shown_of(found, language, figure, shown) for language in TONGUES))
        for what, found, figure, shown in chosen
    ]
    goal = ("target", *(f"{most:.0%}" for most in TONGUES.values()))
    return markdown_table(("", *TONGUES), [goal, *rows])


def shown_of(found: Mapping[str, Figures], language: str, figure: str, shown: str) -> str:
    """A cell; empty where it was not measured."""
    value = found.get(language, {}).get(figure)
    return "" if value is None else shown.format(value)


TABLES: dict[str, Callable[[], list[str]]] = {
    "targets": targets,
    "conditions": conditions,
    "bounds": bounds,
    "languages": languages,
}


if __name__ == "__main__":
    fill(DOCUMENT, TABLES)
