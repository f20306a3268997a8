"""Results as a Markdown document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxtral_jax.evaluation.figures import ALL, Figures
from voxtral_jax.tables import markdown_table

TITLES = {
    "recording": "The set's own recordings",
    "codec": "Resynthesis by the codec",
    "preset": "Preset voices",
    "clone": "Cloned voices",
    "cross": "Cloned voices, English reference",
    "long": "Long texts",
}
"""Kind of a condition -> its title."""
COLUMNS: dict[str, tuple[str, str]] = {
    "clips": ("clips", "{:.0f}"),
    "error": ("errors", "{:.1%}"),
    "error_kept": ("without runaways", "{:.1%}"),
    "runaways": ("runaways", "{:.1%}"),
    "wer": ("WER", "{:.1%}"),
    "cer": ("CER", "{:.1%}"),
    "sphinx_wer": ("WER, PocketSphinx", "{:.1%}"),
    "failures": ("failed", "{:.0f}"),
    "empty": ("empty", "{:.0f}"),
    "cut": ("cut", "{:.0f}"),
    "similarity": ("similarity", "{:.3f}"),
    "similarity_recording": ("of the recording", "{:.3f}"),
    "similarity_codec": ("of the codec", "{:.3f}"),
    "identified": ("identified", "{:.0%}"),
    "identified_recording": ("recording identified", "{:.0%}"),
    "identified_codec": ("codec identified", "{:.0%}"),
    "voices": ("among", "{:.0f}"),
    "mos": ("DistillMOS", "{:.2f}"),
    "dnsmos": ("DNSMOS", "{:.2f}"),
    "p808": ("P.808", "{:.2f}"),
    "mel": ("mel", "{:.3f}"),
    "stft": ("STFT", "{:.3f}"),
    "pesq": ("PESQ", "{:.2f}"),
    "estoi": ("ESTOI", "{:.3f}"),
    "drift": ("last to first 10 s", "{:.3f}"),
}
"""Figure -> heading and format."""


def title(condition: str) -> str:
    """A condition for people."""
    kind, _, length = condition.partition("-")
    return TITLES.get(kind, kind) + (f", {length.removesuffix('s')} s" if length else "")


def markdown(results: Mapping[str, Any]) -> str:
    """The document: what was run, a table for each condition, speed, and what is missing."""
    lines = [
        f"# {results['model']} on {results['set']}",
        "",
        f"{results['date']}, voxtral-jax {results['version']}, {results['device']}.",
        "",
    ]
    for condition, languages in results["figures"].items():
        lines += [f"## {title(condition)}", "", *table(languages), ""]
    lines += ["## Speed and rate", "", *_speed(results), ""]
    if results["judges"]:
        lines += ["## Judges", ""]
        lines += [f"- {name}: {says}" for name, says in results["judges"].items()]
        lines += [""]
    notes = [
        *results["notes"],
        *(f"without {name}: {why}" for name, why in results["missing"].items()),
    ]
    if notes:
        lines += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def table(languages: Mapping[str, Figures]) -> list[str]:
    """A Markdown table of `cells`."""
    heading, *rows = cells(languages)
    return markdown_table(heading, rows)


def cells(languages: Mapping[str, Figures]) -> list[list[str]]:
    """Headings, and a row for each language; a column for each figure that any of them has."""
    names = [name for name in COLUMNS if any(name in figures for figures in languages.values())]
    rows = [["language", *(COLUMNS[name][0] for name in names)]]
    for language, figures in languages.items():
        if language != ALL or len(languages) > 2:
            values = (COLUMNS[n][1].format(figures[n]) if n in figures else "" for n in names)
            rows.append([language, *values])
    return rows


def _speed(results: Mapping[str, Any]) -> Sequence[str]:
    speed = results["speed"]
    lines = [f"- codec: {results['bits_per_second']:.0f} bits per second"]
    if "real_time_factor" in speed:
        lines.append(f"- real-time factor of one text alone: {speed['real_time_factor']:.3f}")
    if "batch_seconds_per_second" in speed:
        lines.append(
            f"- in batches, compilation included: {speed['batch_seconds_per_second']:.1f} s of "
            "audio per second"
        )
    return lines
