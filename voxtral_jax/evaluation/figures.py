"""From what judges said to figures: of each clip, of each language, overall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voxtral_jax.evaluation.identification import cosine, identified, line_up
from voxtral_jax.evaluation.listening import Scores
from voxtral_jax.evaluation.normalization import BY_CHARACTERS
from voxtral_jax.evaluation.takes import CODEC, RECORDING, REFERENCE, Clip
from voxtral_jax.evaluation.transcripts import Comparison, compare, total

ALL = "all"
"""Name of the overall figures: means of the languages' shares, sums of their counts."""

Recognisers = Mapping[str, Callable[[Clip], bool]]
"""Name of a judge -> whether it wants a clip."""

Figures = dict[str, float]
"""Name -> value. Shares are from 0 to 1."""

COUNTS = ("clips", "failures", "empty", "cut", "seconds")
"""Figures that are summed over languages."""


@dataclass(frozen=True, eq=False)
class Row:
    """A clip and what is known of it.

    Attributes:
        heard: by judge, what was understood.
        comparisons: by judge, the errors in it.
        values: figures of this clip alone.
    """

    clip: Clip
    heard: dict[str, str] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    values: Figures = field(default_factory=dict)


def make_rows(clips: Sequence[Clip], scores: Scores, recognisers: Recognisers) -> list[Row]:
    """A row for each clip that says something.

    Args:
        clips: all, references too.
        scores: what the judges said.
        recognisers: judges that say what they heard; a clip without audio was heard as nothing by
            those who want it.
    """
    by_name = {clip.name: clip for clip in clips}
    enrolled = _enrolled(clips, scores)
    return [
        _row(clip, scores, recognisers, by_name, enrolled)
        for clip in clips
        if clip.kind != REFERENCE
    ]


def _embedding(scores: Scores, name: str | None, which: str = "embedding") -> Any:
    """An embedding that a judge of speakers gave, or None."""
    return None if name is None else scores.get(name, {}).get("speaker", {}).get(which)


Enrolled = dict[tuple[str, str], dict[str, Any]]
"""(condition and language of references) -> speaker -> embedding of one."""


def _enrolled(clips: Sequence[Clip], scores: Scores) -> Enrolled:
    found: Enrolled = {}
    for clip in clips:
        embedding = _embedding(scores, clip.name)
        if clip.kind == REFERENCE and embedding is not None:
            alike = found.setdefault((clip.condition, clip.language), {})
            alike.setdefault(clip.speaker, embedding)
    return found


def _row(
    clip: Clip,
    scores: Scores,
    recognisers: Recognisers,
    by_name: Mapping[str, Clip],
    enrolled: Enrolled,
) -> Row:
    said = scores.get(clip.name, {})
    row = Row(clip)
    for judge, wants in recognisers.items():
        if judge in said or (not clip.seconds and wants(clip)):
            row.heard[judge] = said.get(judge, {}).get("heard", "")
            row.comparisons[judge] = compare(clip.text, row.heard[judge], clip.language)
    if "whisper" in row.comparisons:
        if clip.language not in BY_CHARACTERS:
            row.values["wer"] = row.comparisons["whisper"].words.rate
        row.values["cer"] = row.comparisons["whisper"].characters.rate
    if "pocketsphinx" in row.comparisons:
        row.values["sphinx_wer"] = row.comparisons["pocketsphinx"].words.rate
    for judge, name, key in (
        ("distillmos", "mos", "mos"),
        ("dnsmos", "dnsmos", "overall"),
        ("dnsmos", "p808", "p808"),
        ("distance", "mel", "mel"),
        ("distance", "stft", "stft"),
        ("pesq", "pesq", "pesq"),
        ("estoi", "estoi", "estoi"),
    ):
        value = said.get(judge, {}).get(key)
        if value is not None:
            row.values[name] = value
    row.values.update(_voice(clip, scores, by_name, enrolled))
    return row


def _voice(clip: Clip, scores: Scores, by_name: Mapping[str, Clip], enrolled: Enrolled) -> Figures:
    """What embeddings tell: likeness to the reference or original, identification, drift."""
    own = _embedding(scores, clip.name)
    ends = [_embedding(scores, clip.name, which) for which in ("first", "last")]
    values: Figures = {}
    if all(end is not None for end in ends):
        values["drift"] = cosine(*ends)
    if clip.kind == CODEC:
        original = _embedding(scores, clip.original)
        if own is not None and original is not None:
            values["similarity"] = cosine(own, original)
        return values
    reference = _embedding(scores, clip.reference)
    if reference is None or clip.reference is None:
        return values
    cloned = by_name[clip.reference]
    voices = enrolled[(cloned.condition, cloned.language)] | {clip.speaker: reference}
    names = line_up(clip.speaker, list(voices))
    # The recording of the sentence, and its resynthesis, have the voice as well as can be.
    bounds = {
        f"_{kind}": _embedding(scores, f"{kind}/{clip.name.partition('/')[2]}")
        for kind in (RECORDING, CODEC)
    }
    for suffix, embedding in ({"": own} | bounds).items():
        if embedding is None:
            continue
        values[f"similarity{suffix}"] = cosine(embedding, reference)
        if len(names) > 1:
            values[f"identified{suffix}"] = float(
                identified(embedding, clip.speaker, {name: voices[name] for name in names})
            )
            values["voices"] = len(names)
    return values


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, Figures]]:
    """Figures by condition and language, and of all languages under `ALL`."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        languages = found.setdefault(row.clip.condition, {})
        languages.setdefault(row.clip.language, []).append(row)
    return {
        condition: _with_all({name: _figures(part) for name, part in sorted(languages.items())})
        for condition, languages in found.items()
    }


def _figures(rows: Sequence[Row]) -> Figures:
    """Figures of one language in one condition."""
    clips = [row.clip for row in rows]
    language = clips[0].language
    values: Figures = {
        "clips": len(clips),
        "seconds": round(sum(clip.seconds for clip in clips), 1),
        "failures": sum(clip.failure is not None for clip in clips),
        "cut": sum(clip.finish_reason == "length" for clip in clips),
    }
    heard = [row for row in rows if "whisper" in row.comparisons]
    if heard:
        values["empty"] = sum(not row.heard["whisper"] for row in heard)
        values["runaways"] = _mean(row.comparisons["whisper"].runaway for row in heard)
        kept = [row for row in heard if not row.comparisons["whisper"].runaway]
        for suffix, part in (("", heard), ("_kept", kept)):
            if part:
                values |= _errors(part, suffix)
                if language in BY_CHARACTERS:  # what is not written apart has no words
                    del values[f"wer{suffix}"]
    sphinx = [row.comparisons["pocketsphinx"] for row in rows if "pocketsphinx" in row.comparisons]
    if sphinx:
        values["sphinx_wer"] = total(comparison.words for comparison in sphinx).rate
    names = dict.fromkeys(name for row in rows for name in row.values)
    for name in names:
        if name not in ("wer", "cer", "sphinx_wer"):
            values[name] = _mean(row.values[name] for row in rows if name in row.values)
    return {name: round(value, 4) for name, value in values.items()}


def _errors(rows: Sequence[Row], suffix: str) -> Figures:
    comparisons = [row.comparisons["whisper"] for row in rows]

    def rate(part: Callable[[Comparison], Any]) -> float:
        return float(total(map(part, comparisons)).rate)

    return {
        f"error{suffix}": rate(lambda comparison: comparison.main),
        f"wer{suffix}": rate(lambda comparison: comparison.words),
        f"cer{suffix}": rate(lambda comparison: comparison.characters),
    }


def _mean(values: Any) -> float:
    return float(np.mean([float(value) for value in values]))


def _with_all(languages: dict[str, Figures]) -> dict[str, Figures]:
    """Adds the overall figures. Each language counts alike in shares."""
    names = dict.fromkeys(name for figures in languages.values() for name in figures)
    overall: Figures = {}
    for name in names:
        values = [figures[name] for figures in languages.values() if name in figures]
        overall[name] = round(sum(values) if name in COUNTS else _mean(values), 4)
    return languages | {ALL: overall}
