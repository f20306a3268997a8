"""One utterance, and the line of a manifest (`manifest.py`) that names it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One utterance, and where its audio is.

    Attributes:
        key: its name, the same wherever the data set lies: recording and span.
        audio: the recording's name: its path relative to the manifest.
        texts: variants of the transcript; may be empty where no text was asked for.
        language, speaker: as in the manifest.
        start: seconds in the recording.
        end: seconds in the recording; None is its end.
        phonemes: pronunciation, if known.
        phoneme_ends: seconds at which each phoneme ends, if known.
        seconds: how long it is.
        file: path of the recording, or of the shard that holds it.
        record: its number in the shard, where the audio is the span alone; None in a file.
        goal: path of the recording that the codec is to give back; None is the audio itself.
        pitch: Hz at the end of each frame of it, 0 in one without a voice; empty if not known.
    """

    key: str
    audio: str
    texts: tuple[str, ...]
    language: str
    speaker: str
    start: float = 0.0
    end: float | None = None
    phonemes: str | None = None
    phoneme_ends: tuple[float, ...] = ()
    seconds: float = 0.0
    file: str = ""
    record: int | None = None
    goal: str | None = None
    pitch: tuple[float, ...] = ()


def goal_of(utterance: Utterance) -> Utterance:
    """The recording that the codec is to give back; the utterance itself where there is none."""
    if utterance.goal is None:
        return utterance
    return replace(utterance, file=utterance.goal, record=None)


class Unusable(Exception):
    """Why a line cannot be used."""


def parse_line(line: str, directory: Path, base: str, need_text: bool) -> Utterance:
    """The utterance that a line of a manifest names; how long it is stays open.

    Args:
        line: JSON.
        directory: of the manifest.
        base: directory that names of recordings are relative to.
        need_text: whether one without a transcript is broken.

    Raises:
        Unusable: the line is broken.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise Unusable(f"it is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Unusable(f"expected an object, got {type(data).__name__}")
    start, end = _seconds(data, "start"), _seconds(data, "end")
    if end is not None and end <= (start or 0):
        raise Unusable(f"the span from {start or 0} to {end} s is empty")
    file = os.path.abspath(directory / _string(data, "audio"))
    inside = file.startswith(os.path.join(base, ""))
    audio = Path(os.path.relpath(file, base) if inside else file).as_posix()
    phonemes = _string(data, "phonemes") if data.get("phonemes") is not None else None
    goal = _string(data, "goal") if data.get("goal") is not None else None
    return Utterance(
        key=_key(audio, start, end),
        audio=audio,
        texts=texts_of(data.get("text"), need_text),
        language=_string(data, "language"),
        speaker=_string(data, "speaker"),
        start=start or 0.0,
        end=end,
        phonemes=phonemes,
        phoneme_ends=_ends(data.get("phoneme_ends"), phonemes),
        file=file,
        goal=None if goal is None else os.path.abspath(directory / goal),
        pitch=_pitch(data.get("pitch")),
    )


def _key(audio: str, start: float | None, end: float | None) -> str:
    if not start and end is None:
        return audio
    return f"{audio}@{start or 0:.3f}-{'' if end is None else f'{end:.3f}'}"


def _string(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value.strip():
        problem = "is missing" if value is None else f"must be a text, got {value!r}"
        raise Unusable(f"{name!r} {problem}")
    return value


def _seconds(data: dict[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise Unusable(f"{name!r} must be seconds, got {value!r}")
    return float(value)


def _ends(value: Any, phonemes: str | None) -> tuple[float, ...]:
    if value is None or value == []:
        return ()
    ends = tuple(value) if isinstance(value, list) else (None,)
    rising = all(isinstance(end, int | float) for end in ends) and list(ends) == sorted(ends)
    if not rising or len(ends) != len(phonemes or "") or min(ends, default=0.0) < 0:
        raise Unusable("'phoneme_ends' must have a number for each phoneme, rising from 0")
    return tuple(map(float, ends))


def _pitch(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    frames = tuple(value) if isinstance(value, list) else (None,)
    if not all(isinstance(hertz, int | float) and 0 <= hertz < math.inf for hertz in frames):
        raise Unusable("'pitch' must have Hz for each frame, 0 in those without a voice")
    return tuple(map(float, frames))


def texts_of(value: Any, need_text: bool) -> tuple[str, ...]:
    """Variants of a transcript, of what a manifest has as `text`.

    Raises:
        Unusable: it is no text, or there is none and `need_text`.
    """
    variants = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in variants):
        raise Unusable(f"'text' must be a text or a list of texts, got {value!r}")
    texts = tuple(one for one in variants if one.strip())
    if need_text and not texts:
        raise Unusable("'text' is missing or empty")
    return texts
