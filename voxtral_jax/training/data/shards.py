"""Code shards: recordings as codec frames, which the speech model trains on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from voxtral_jax.errors import DataError
from voxtral_jax.training.data import records

CODES = "codes"
"""Kind of these shards."""
SHARD_FRAMES = 500_000
"""Frames in a shard: eleven hours at 12.5 frames a second, at most 37 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeRecord:
    """One utterance as codes.

    Attributes:
        key: of the utterance.
        codes: `[T, K]` integers from 0.
        speech: `[T]`, whether there is voice in the frame.
        texts: variants of the transcript.
        language, speaker: as in the manifest.
        phoneme_ends: seconds from the first frame at which each phoneme of the text ends; empty
            where they are not known.
        audio: name of the recording.
        start, end: seconds in the recording; None is its end.
    """

    key: str
    codes: Int[np.ndarray, "T K"]
    speech: Bool[np.ndarray, " T"]
    texts: tuple[str, ...]
    language: str
    speaker: str
    phoneme_ends: tuple[float, ...] = ()
    audio: str
    start: float
    end: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeEntry:
    """What is known of a record without reading it: as in `CodeRecord`, and T as `frames`."""

    key: str
    shard: str
    record: int
    frames: int
    texts: tuple[str, ...]
    language: str
    speaker: str
    phoneme_ends: tuple[float, ...] = ()
    audio: str
    start: float
    end: float | None


class CodeWriter:
    """Writes code shards; see `records.RecordWriter`.

    Args:
        directory: where to; complete shards there stay.
        shard_frames: a shard is complete when it has so many.
    """

    def __init__(self, directory: str | os.PathLike[str], shard_frames: int = SHARD_FRAMES) -> None:
        self._writer = records.RecordWriter(directory, CODES, shard_frames)

    @property
    def done(self) -> set[str]:
        """Keys that need not be written again."""
        return self._writer.done

    def write(self, record: CodeRecord) -> None:
        """Adds one utterance.

        Raises:
            DataError: it is there already, its codes are not `[T, K]` of 16 bits without a sign, or
                the disk cannot take it.
        """
        codes, speech = np.asarray(record.codes), np.asarray(record.speech, bool)
        if codes.ndim != 2 or codes.dtype.kind not in "iu" or speech.shape != codes.shape[:1]:
            raise DataError(
                f"{record.key}: codes must be integers [T, K] and speech [T], got {codes.dtype} "
                f"{list(codes.shape)} and {list(speech.shape)}"
            )
        if codes.size == 0 or codes.min() < 0 or codes.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{record.key}: there are no codes, or they are not from 0 to 65535")
        entry = {
            "key": record.key,
            "frames": len(codes),
            "texts": list(record.texts),
            "language": record.language,
            "speaker": record.speaker,
            "phoneme_ends": list(record.phoneme_ends),
            "audio": record.audio,
            "start": float(record.start),
            "end": None if record.end is None else float(record.end),
        }
        stored = {
            "key": record.key,
            "codes": codes.astype("<u2").tobytes(),
            "speech": np.packbits(speech).tobytes(),
        }
        self._writer.write(stored, entry, len(codes))

    def __enter__(self) -> CodeWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()


def done_keys(directory: str | os.PathLike[str]) -> set[str]:
    """Keys of the utterances in complete code shards; empty if there are none.

    Raises:
        DataError: an index cannot be read.
    """
    return records.done_keys(directory, CODES)


class CodeSource:
    """Code shards by record number: a source for grain, which worker processes may share.

    Attributes:
        entries: what is known of each record without reading it.

    Raises:
        DataError: there are no shards, or one of them is incomplete or corrupt.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        found = records.read_entries(directory, CODES)
        self.entries = tuple(_entry(shard, record, line) for shard, record, line in found)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> CodeRecord:
        entry = self.entries[index]
        stored = records.read_record(entry.shard, entry.record)
        try:
            codes = np.frombuffer(stored["codes"], "<u2").reshape(entry.frames, -1)
            packed = np.frombuffer(stored["speech"], np.uint8)
            if stored["key"] != entry.key or 8 * len(packed) < entry.frames:
                raise ValueError(f"it is {stored['key']!r}, the index says {entry.key!r}")
        except (KeyError, ValueError) as error:
            raise DataError(
                f"record {entry.record} of {entry.shard} is not what its index says: {error}"
            ) from None
        return CodeRecord(
            key=entry.key,
            codes=codes.astype(np.int32),
            speech=np.unpackbits(packed, count=entry.frames).astype(bool),
            texts=entry.texts,
            language=entry.language,
            speaker=entry.speaker,
            phoneme_ends=entry.phoneme_ends,
            audio=entry.audio,
            start=entry.start,
            end=entry.end,
        )


def _entry(shard: Path, record: int, line: dict[str, Any]) -> CodeEntry:
    try:
        line = {
            **line,
            "texts": tuple(line["texts"]),
            "phoneme_ends": tuple(line["phoneme_ends"]),
        }
        return CodeEntry(shard=str(shard), record=record, **line)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"line {record + 1} of {shard.with_suffix(records.INDEX_SUFFIX)} does not describe "
            f"codes: {error}"
        ) from None
