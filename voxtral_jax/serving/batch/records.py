"""What became of jobs: journals that outlive a kill at any moment, and the final list.

Every process that speaks keeps a journal of its own in the output directory, and adds a line when
a file is complete. Together they say what is done; `merge` folds them into one before a run.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from voxtral_jax.errors import JobError
from voxtral_jax.files import append_line, read_lines, replacing
from voxtral_jax.serving.batch.jobs import RESULTS, Job
from voxtral_jax.speech import FinishReason

JOURNALS = ".journal"
"""Folder of the journals; no job's name starts with a dot."""
MERGED = "merged.jsonl"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a job.

    Attributes:
        name, digest: the job's.
        file: the audio, relative to the output directory; None if there is none.
        finish_reason: "stop", or "length" if the speech was cut at its limit.
        seconds: of audio.
        error: why there is no audio.
    """

    name: str
    digest: str
    file: str | None = None
    finish_reason: FinishReason | None = None
    seconds: float = 0.0
    error: str | None = None

    def settles(self, job: Job, out: Path) -> bool:
        """Whether the job need not be done again: as it stands now, and its audio is there."""
        return self.file is not None and self.digest == job.digest and (out / self.file).is_file()


class Journal:
    """A process's own list of results; the file appears with the first one."""

    def __init__(self, out: Path) -> None:
        # The token: process numbers come again, and hosts of a cluster can share a name.
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._file = out / JOURNALS / name

    def add(self, result: Result) -> None:
        """Adds a line; what was added is kept even if the process is killed right after."""
        append_line(self._file, asdict(result))


def read_results(out: Path) -> dict[str, Result]:
    """The last result of each name; audio that one process made outweighs another's failure."""
    merged = out / JOURNALS / MERGED
    results = {line["name"]: Result(**line) for line in read_lines(merged)}
    new: dict[str, Result] = {}
    for file in _own_journals(out):
        for line in read_lines(file):
            result = Result(**line)
            if result.name not in new or result.error is None:
                new[result.name] = result
    return results | new


def merge(out: Path) -> dict[str, Result]:
    """Folds all journals into one, so that those of the next run are newer than it.

    A kill in between leaves lines in both; they say the same.
    """
    results = read_results(out)
    own = _own_journals(out)
    if own:
        _write_lines(out / JOURNALS / MERGED, [asdict(result) for result in results.values()])
    for file in own:
        file.unlink(missing_ok=True)
    return results


def write_results(out: Path, jobs: Sequence[Job], results: Mapping[str, Result]) -> None:
    """Writes the final list, in the order of the jobs.

    Raises:
        JobError: a job has no result, or its audio is not there.
    """
    for job in jobs:
        result = results.get(job.name)
        if result is None or (result.error is None and not result.settles(job, out)):
            raise JobError(
                f"line {job.line} was spoken, but {out} does not show it; with --ray, all machines "
                "must see that directory under the same name"
            )
    lines = [{"line": job.line, **asdict(results[job.name])} for job in jobs]
    _write_lines(out / RESULTS, lines)


def _own_journals(out: Path) -> list[Path]:
    return sorted(file for file in (out / JOURNALS).glob("*.jsonl") if file.name != MERGED)


def _write_lines(file: Path, lines: list[dict[str, object]]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
            encoding="utf-8",
        )
