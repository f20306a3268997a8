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
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from voxtral_jax.audio.reading import LONGEST_FILE, RATES
from voxtral_jax.errors import DataError
from voxtral_jax.training.data.records import SHARD_SUFFIX, read_entries
from voxtral_jax.training.data.utterances import Unusable, Utterance, parse_line, texts_of

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
                lines.append((where, parse_line(line, path.parent, base, need_text)))
            except Unusable as reason:
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
        except Unusable as reason:
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
        raise Unusable(f"{utterance.key} was named before")
    keys.add(utterance.key)


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
        raise Unusable(header)
    end = header if utterance.end is None else utterance.end
    if end > header + TOLERANCE or utterance.start >= header:
        raise Unusable(
            f"the span from {utterance.start} to {end} s is not inside {utterance.audio}, which "
            f"lasts {header:.3f} s"
        )
    seconds = min(end, header) - utterance.start
    if not SHORTEST <= seconds <= LONGEST_FILE:
        raise Unusable(
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
                    texts=texts_of(entry["texts"], need_text),
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
            except Unusable as reason:
                broken.append(Broken(where, str(reason)))
            except KeyError as name:
                broken.append(Broken(where, f"its index line has no {name}"))
    return found
