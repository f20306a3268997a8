"""The manifest: which recordings there are, who speaks, and what is said.

A manifest is a file of JSON lines, one utterance a line:

    {"audio": "clips/0001.flac", "text": "It was 5 p.m.", "language": "en", "speaker": "anna"}

`text` may be a list: variants of one transcript, such as normalised and raw. `start` and `end` (in
seconds) make the utterance a part of its recording; `phonemes` may say how it is pronounced, and
`phoneme_ends` when each of them ends, in seconds of the utterance. `goal` may name another
recording, as long as `audio`, that the codec is to give back in its place; `pitch` has its Hz at
the end of each frame of the codec, 0 in one without a voice. Paths of recordings are relative to
the manifest.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxtral_jax.audio.reading import LONGEST_FILE, RATES
from voxtral_jax.errors import DataError
from voxtral_jax.training.data.records import SHARD_SUFFIX, read_entries

SHORTEST = 0.1
"""Seconds of the shortest utterance."""
TOLERANCE = 0.05
"""Seconds that a span may go on after the end of its recording: transcripts are rounded."""
HEADER_THREADS = 16
"""Threads that read headers: they mostly wait for the disk."""
NAMED = 3
"""Broken lines that an error quotes."""
AUDIO = "audio"
"""Kind of the shards of recordings."""


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


@dataclass(frozen=True)
class Broken:
    """A line of a manifest that cannot be used: `file:line`, and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds, in its order, and the lines of it that cannot be used."""

    utterances: tuple[Utterance, ...]
    broken: tuple[Broken, ...]

    @property
    def has_goals(self) -> bool:
        """Whether the codec is to give back something else for some of them."""
        return any(one.goal is not None for one in self.utterances)

    @property
    def has_pitch(self) -> bool:
        """Whether that of some of them is known."""
        return any(one.pitch for one in self.utterances)

    def need_pitch(self, frame_rate: float) -> None:
        """Checks that every utterance has the pitch of each of its frames.

        Raises:
            DataError: one has not.
        """
        for one in self.utterances:
            frames = math.ceil(one.seconds * frame_rate)
            if abs(len(one.pitch) - frames) > 1:
                raise DataError(
                    f"'pitch' of {one.key} has {len(one.pitch)} frames of {frames}: make the "
                    "manifest with scripts/corpus/lock.py, or teach no pitch (envelope.pitch = 0)"
                )


class _Unusable(Exception):
    """Why a line cannot be used."""


def read_manifest(
    path: str | os.PathLike[str], *, need_text: bool, most_broken: float = 0.05
) -> Manifest:
    """Reads and checks a manifest; of the audio, only the headers are read.

    Args:
        path: a manifest, a directory of shards made by `scripts/shard_audio.py`, or a pattern such
            as `data/*/train.jsonl`. With a pattern, names of recordings are relative to the
            directory that all its manifests share.
        need_text: whether an utterance without a transcript is broken.
        most_broken: share of the lines that may be broken.

    Raises:
        DataError: there is no manifest, too much of it is broken, or nothing is left.
    """
    manifests, shards = _find(str(path))
    broken: list[Broken] = []
    found = _from_manifests(manifests, need_text, broken)
    found += _from_shards(shards, need_text, broken)
    total = len(found) + len(broken)
    if not found or len(broken) > most_broken * total:
        reasons = "; ".join(f"{one.where}: {one.reason}" for one in broken[:NAMED])
        raise DataError(
            f"{len(broken)} of {total} utterances in {path} are broken, at most "
            f"{most_broken:.1%} may be, and one must be left{': ' if reasons else ''}{reasons}; "
            "mend the manifest, or allow more with most_broken"
        )
    return Manifest(tuple(found), tuple(broken))


def _find(path: str) -> tuple[list[Path], list[Path]]:
    """Manifests and directories of shards that a path or pattern names."""
    paths = [Path(path)] if os.path.exists(path) else [Path(p) for p in sorted(glob.glob(path))]
    if not paths:
        raise DataError(f"{path} does not exist, and no file's name fits it as a pattern")
    shards = {p for p in paths if p.is_dir()} | {
        p.parent for p in paths if p.match("*" + SHARD_SUFFIX)
    }
    return [p for p in paths if not p.is_dir() and p.parent not in shards], sorted(shards)


def _from_manifests(paths: list[Path], need_text: bool, broken: list[Broken]) -> list[Utterance]:
    if not paths:
        return []
    base = os.path.commonpath([os.path.abspath(p.parent) for p in paths])
    lines: list[tuple[str, Utterance]] = []
    for path in paths:
        for number, line in _lines(path):
            where = f"{path}:{number}"
            try:
                lines.append((where, _parse(line, path.parent, base, need_text)))
            except _Unusable as reason:
                broken.append(Broken(where, str(reason)))
    files = {one.file for _, one in lines} | {one.goal for _, one in lines if one.goal}
    headers = _headers(files)
    found: list[Utterance] = []
    keys: set[str] = set()
    for where, utterance in lines:
        try:
            utterance = _with_length(utterance, headers[utterance.file])
            if utterance.goal is not None:
                _with_length(replace(utterance, audio="'goal'"), headers[utterance.goal])
            _once(utterance, keys)
            found.append(utterance)
        except _Unusable as reason:
            broken.append(Broken(where, str(reason)))
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and content of the lines that are not blank."""
    try:
        with open(path, encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the manifest {path} cannot be read as UTF-8 text: {error}") from None


def _once(utterance: Utterance, keys: set[str]) -> None:
    if utterance.key in keys:
        raise _Unusable(f"{utterance.key} was named before")
    keys.add(utterance.key)


def _parse(line: str, directory: Path, base: str, need_text: bool) -> Utterance:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise _Unusable(f"it is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise _Unusable(f"expected an object, got {type(data).__name__}")
    start, end = _seconds(data, "start"), _seconds(data, "end")
    if end is not None and end <= (start or 0):
        raise _Unusable(f"the span from {start or 0} to {end} s is empty")
    file = os.path.abspath(directory / _string(data, "audio"))
    inside = file.startswith(os.path.join(base, ""))
    audio = Path(os.path.relpath(file, base) if inside else file).as_posix()
    phonemes = _string(data, "phonemes") if data.get("phonemes") is not None else None
    goal = _string(data, "goal") if data.get("goal") is not None else None
    return Utterance(
        key=_key(audio, start, end),
        audio=audio,
        texts=_texts(data.get("text"), need_text),
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
        raise _Unusable(f"{name!r} {problem}")
    return value


def _seconds(data: dict[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise _Unusable(f"{name!r} must be seconds, got {value!r}")
    return float(value)


def _ends(value: Any, phonemes: str | None) -> tuple[float, ...]:
    if value is None or value == []:
        return ()
    ends = tuple(value) if isinstance(value, list) else (None,)
    rising = all(isinstance(end, int | float) for end in ends) and list(ends) == sorted(ends)
    if not rising or len(ends) != len(phonemes or "") or min(ends, default=0.0) < 0:
        raise _Unusable("'phoneme_ends' must have a number for each phoneme, rising from 0")
    return tuple(map(float, ends))


def _pitch(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    frames = tuple(value) if isinstance(value, list) else (None,)
    if not all(isinstance(hertz, int | float) and 0 <= hertz < math.inf for hertz in frames):
        raise _Unusable("'pitch' must have Hz for each frame, 0 in those without a voice")
    return tuple(map(float, frames))


def _texts(value: Any, need_text: bool) -> tuple[str, ...]:
    variants = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in variants):
        raise _Unusable(f"'text' must be a text or a list of texts, got {value!r}")
    texts = tuple(one for one in variants if one.strip())
    if need_text and not texts:
        raise _Unusable("'text' is missing or empty")
    return texts


def _headers(files: Iterable[str]) -> dict[str, float | str]:
    """Seconds that each recording lasts, or what is wrong with it."""
    names = sorted(files)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return dict(zip(names, pool.map(_header, names), strict=True))


def _header(file: str) -> float | str:
    import soundfile

    if not os.path.isfile(file):
        return f"{file} does not exist or is not a file"
    try:
        info = soundfile.info(file)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        return f"{file} cannot be read as audio: {error}"
    if not RATES[0] <= info.samplerate <= RATES[1]:
        return f"{file} has a sample rate of {info.samplerate} Hz"
    return info.frames / info.samplerate


def _with_length(utterance: Utterance, header: float | str) -> Utterance:
    if isinstance(header, str):
        raise _Unusable(header)
    end = header if utterance.end is None else utterance.end
    if end > header + TOLERANCE or utterance.start >= header:
        raise _Unusable(
            f"the span from {utterance.start} to {end} s is not inside {utterance.audio}, which "
            f"lasts {header:.3f} s"
        )
    seconds = min(end, header) - utterance.start
    if not SHORTEST <= seconds <= LONGEST_FILE:
        raise _Unusable(
            f"it lasts {seconds:.3f} s, utterances last from {SHORTEST} to {LONGEST_FILE:.0f} s"
        )
    return replace(utterance, seconds=seconds)


def _from_shards(directories: list[Path], need_text: bool, broken: list[Broken]) -> list[Utterance]:
    found: list[Utterance] = []
    keys: set[str] = set()
    for directory in directories:
        for shard, record, entry in read_entries(directory, AUDIO):
            where = f"{shard.name} record {record}"
            try:
                utterance = Utterance(
                    key=entry["key"],
                    audio=entry["audio"],
                    texts=_texts(entry["texts"], need_text),
                    language=entry["language"],
                    speaker=entry["speaker"],
                    start=entry["start"],
                    end=entry["end"],
                    phonemes=entry["phonemes"],
                    phoneme_ends=tuple(entry["phoneme_ends"]),
                    seconds=entry["seconds"],
                    file=str(shard),
                    record=record,
                )
                _once(utterance, keys)
                found.append(utterance)
            except _Unusable as reason:
                broken.append(Broken(where, str(reason)))
            except KeyError as name:
                broken.append(Broken(where, f"its index line has no {name}"))
    return found
