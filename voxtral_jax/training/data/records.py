"""Records with keys in array-record shards, each shard with an index of what it holds.

`codes-00000.array_record` holds records, line r of `codes-00000.jsonl` describes its record r. A
shard appears only when it is complete, its index last; a run that is killed loses at most the
shard that it was writing, and the next run goes on behind the complete ones.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from voxtral_jax.errors import DataError
from voxtral_jax.files import TEMPORARY, replacing

SHARD_SUFFIX = ".array_record"
INDEX_SUFFIX = ".jsonl"
OPEN_SUFFIX = ".open"
"""Ends the name of a shard that is being written."""
WRITER_OPTIONS = "group_size:1"
"""Each record on its own: they are read at random."""
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
"""What array_record advises for random access."""
READER_BUFFER = 32_768
"""Bytes that a reader buffers."""
MOST_READERS = 256
"""Shards that are open at once; systems often allow 1024 files."""


class RecordWriter:
    """Writes shards of one kind into a directory, behind those that are complete there.

    One writer at a time may write into a directory. Closing it (leaving its `with`) completes the
    shard that is open.

    Args:
        directory: where to; made if it is missing.
        kind: the first part of the shards' names.
        shard_size: a shard is complete when its records' sizes add up to this.

    Attributes:
        done: keys of the records in complete shards, and of those written since.

    Raises:
        DataError: an index there cannot be read.
    """

    def __init__(self, directory: str | os.PathLike[str], kind: str, shard_size: int) -> None:
        self._directory, self._kind, self._shard_size = Path(directory), kind, shard_size
        self._directory.mkdir(parents=True, exist_ok=True)
        _remove_remains(self._directory, kind)
        complete = sorted(self._directory.glob(f"{kind}-*{SHARD_SUFFIX}"))
        self._number = 1 + int(complete[-1].stem.rpartition("-")[2]) if complete else 0
        self.done = done_keys(self._directory, kind)
        self._writer: ArrayRecordWriter | None = None
        self._entries: list[dict[str, Any]] = []
        self._size = 0

    def write(self, record: dict[str, Any], entry: dict[str, Any], size: int) -> None:
        """Adds one record.

        Args:
            record: what msgpack can hold.
            entry: what its index line says, `key` among it.
            size: what it adds to the shard's size.

        Raises:
            DataError: the key is there already, or the disk cannot take it.
        """
        if entry["key"] in self.done:
            raise DataError(f"{self._directory} has a record {entry['key']!r} already")
        try:
            if self._writer is None:
                self._writer = ArrayRecordWriter(str(self._open_path), WRITER_OPTIONS)
            self._writer.write(msgpack.packb(record))
        except RuntimeError as error:
            raise DataError(f"{self._open_path} cannot be written: {error}") from None
        self._entries.append(entry)
        self.done.add(entry["key"])
        self._size += size
        if self._size >= self._shard_size:
            self.close()

    @property
    def _path(self) -> Path:
        return self._directory / f"{self._kind}-{self._number:05d}{SHARD_SUFFIX}"

    @property
    def _open_path(self) -> Path:
        return self._path.with_name(self._path.name + OPEN_SUFFIX)

    def close(self) -> None:
        """Completes the shard that is open, if there is one.

        Raises:
            DataError: the disk cannot take it.
        """
        if self._writer is None:
            return
        try:
            self._writer.close()
        except RuntimeError as error:
            raise DataError(f"{self._open_path} cannot be written: {error}") from None
        os.replace(self._open_path, self._path)
        with (
            replacing(self._path.with_suffix(INDEX_SUFFIX)) as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in self._entries)
        self._writer, self._entries, self._size = None, [], 0
        self._number += 1

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _remove_remains(directory: Path, kind: str) -> None:
    """Removes what a killed run left: open shards, shards without an index, and the reverse."""
    ours = re.compile(rf"{kind}-\d{{5,}}(\.array_record(\.open)?|\.jsonl({TEMPORARY})?)")
    for path in [path for path in directory.iterdir() if ours.fullmatch(path.name)]:
        pair = {path.with_suffix(suffix) for suffix in (SHARD_SUFFIX, INDEX_SUFFIX)}
        if path not in pair or not all(one.exists() for one in pair):
            path.unlink()


def done_keys(directory: str | os.PathLike[str], kind: str) -> set[str]:
    """Keys of all records in complete shards, also of directories within; empty if there are none.

    Raises:
        DataError: an index cannot be read.
    """
    shards = Path(directory).rglob(f"{kind}-*{SHARD_SUFFIX}")
    indices = [shard.with_suffix(INDEX_SUFFIX) for shard in shards]
    return {one["key"] for index in indices if index.exists() for one in _read_index(index)}


def read_entries(
    directory: str | os.PathLike[str], kind: str
) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Shard, record number and index line of every record, also of directories within.

    Of records with the same key (several hosts may have made them), the first is taken.

    Raises:
        DataError: there are no such shards, or one of them is incomplete or corrupt.
    """
    directory = Path(directory)
    stems = {
        path.with_suffix("")
        for suffix in (SHARD_SUFFIX, INDEX_SUFFIX)
        for path in directory.rglob(f"{kind}-*{suffix}")
    }
    keys: set[str] = set()
    if not stems:
        raise DataError(f"{directory} holds no {kind}-*{SHARD_SUFFIX}; is it the right directory?")
    for stem in sorted(stems):
        shard, index = stem.with_suffix(SHARD_SUFFIX), stem.with_suffix(INDEX_SUFFIX)
        for path in (shard, index):
            if not path.exists():
                raise DataError(f"{path} is missing; {_MEND}")
        entries = _read_index(index)
        if (count := _reader(str(shard)).num_records()) != len(entries):
            raise DataError(
                f"{shard} holds {count} records, its index says {len(entries)}; {_MEND}"
            )
        for record, entry in enumerate(entries):
            if entry["key"] not in keys:
                keys.add(entry["key"])
                yield shard, record, entry


_MEND = "delete the shard and its index and run the command that made them once more"


def _read_index(path: Path) -> list[dict[str, Any]]:
    try:
        # Not splitlines: texts may hold other characters that end a line.
        lines = path.read_text(encoding="utf-8").split("\n")
        entries = [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON lines: {error}; {_MEND}") from None
    if not all(isinstance(entry, dict) and "key" in entry for entry in entries):
        raise DataError(f"{path} has a line without a key; {_MEND}")
    return entries


@lru_cache(maxsize=MOST_READERS)
def _reader(shard: str) -> ArrayRecordReader:
    """A reader, which threads may share."""
    reader = ArrayRecordReader(shard, READER_OPTIONS, file_reader_buffer_size=READER_BUFFER)
    if not reader.ok():
        raise DataError(f"{shard} is missing or corrupt; {_MEND}")
    return reader


def read_record(shard: str | os.PathLike[str], record: int) -> dict[str, Any]:
    """One record of a shard.

    Raises:
        DataError: the shard is missing or corrupt.
    """
    try:
        return msgpack.unpackb(_reader(str(shard)).read([record])[0])
    except (RuntimeError, ValueError, msgpack.UnpackException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"record {record} of {shard} is corrupt: {error}; {_MEND}") from None
