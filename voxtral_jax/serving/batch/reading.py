"""Reads lists of jobs: JSON lines, CSV, a directory of .txt files, or standard input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter, ValidationError

from voxtral_jax.errors import JobError, VoxtralError, problems_of
from voxtral_jax.serving.batch.jobs import (
    FIELDS,
    Job,
    check_job,
    check_source,
    clashes,
    digest_of,
)
from voxtral_jax.voice import SUFFIXES

STDIN = "-"
MOST_SHOWN = 10
"""Faulty lines that an error quotes."""
LONGEST_CELL = 1_000_000
"""Characters of a CSV cell; Python's own limit is below the longest text."""

_job = TypeAdapter(Job)


def read_jobs(
    source: Path,
    *,
    defaults: Mapping[str, Any],
    voices: Collection[str],
    model: str,
    stdin: TextIO,
) -> list[Job]:
    """Reads and checks a list of jobs; nothing is left to go wrong for a line's own fault.

    Args:
        source: a file of JSON lines or CSV, a directory of .txt files, or - for JSON lines from
            `stdin`. Paths in it are relative to the file, those from `stdin` and in `defaults` to
            the working directory.
        defaults: what holds for lines that do not say otherwise; None is nothing.
        voices: names of the model's presets.
        model: names the weights, for the digests.
        stdin: where - is read from.

    Returns:
        The jobs, in the list's order.

    Raises:
        JobError: the list cannot be read, or lines of it cannot be spoken; all are named.
    """
    here = Path() if str(source) == STDIN else source.parent
    jobs: list[Job] = []
    faults: dict[int, str] = {}
    sources: dict[str, str] = {}
    for line, given in _lines(source, stdin):
        try:
            if isinstance(given, str):
                raise JobError(given)
            job = _build(line, given, defaults, here)
            check_job(job, voices)
            if job.source is not None:
                # Many lines share a recording; it is decoded once.
                if job.source not in sources:
                    sources[job.source] = check_source(job.source)
                job = replace(job, source_digest=sources[job.source])
            jobs.append(replace(job, digest=digest_of(job, model)))
        except (VoxtralError, OSError) as error:
            faults[line] = str(error)
    faults |= clashes(jobs)
    if faults:
        shown = [f"  line {line}: {faults[line]}" for line in sorted(faults)[:MOST_SHOWN]]
        more = len(faults) - len(shown)
        rest = [f"  and {more} more"] if more else []
        count = "1 line" if len(faults) == 1 else f"{len(faults)} lines"
        raise JobError("\n".join([f"{source}: {count} cannot be spoken", *shown, *rest]))
    if not jobs:
        raise JobError(f"{source} holds no jobs; write one a line, such as " + '{"text": "Hi."}')
    return jobs


def _build(line: int, given: dict[str, Any], defaults: Mapping[str, Any], here: Path) -> Job:
    unknown = [str(name) for name in given if name not in FIELDS]
    if unknown:
        raise JobError(f"unknown field {unknown[0]!r}; there are {', '.join(FIELDS)}")
    given = _placed(given, here)
    own_speaker = "voice" in given or "ref" in given
    others = {
        name: value
        for name, value in _placed(defaults, Path()).items()
        if not (own_speaker and name in ("voice", "ref"))
    }
    # Six digits: names stay when the list grows.
    values = {"name": f"{line:06}"} | others | given
    try:
        return _job.validate_python({"line": line, **values})
    except ValidationError as error:
        raise JobError(problems_of(error)) from None


def _placed(given: Mapping[str, Any], here: Path) -> dict[str, Any]:
    """What was given at all; paths relative to `here` become absolute, for any process."""
    placed = {name: value for name, value in given.items() if value is not None}
    for name in ("ref", "voice"):
        value = placed.get(name)
        if isinstance(value, str) and (name == "ref" or value.endswith(SUFFIXES)):
            placed[name] = str((here / value).absolute())
    return placed


def _lines(source: Path, stdin: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers, and what the lines say, or what is wrong with them."""
    if str(source) == STDIN:
        yield from _json_lines(stdin.read())
    elif source.is_dir():
        files = sorted(source.rglob("*.txt"))
        for number, file in enumerate(files, 1):
            name = file.relative_to(source).with_suffix("").as_posix()
            yield number, {"text": _read(file), "name": name}
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_lines(_read(source))
    elif source.suffix.lower() == ".csv":
        yield from _csv_lines(_read(source), source)
    else:
        raise JobError(
            f"{source}: jobs are a .jsonl or .csv file, a directory of .txt files, or - for JSON "
            "lines from stdin"
        )


def _read(file: Path) -> str:
    try:
        # -sig: spreadsheets put a byte order mark before their CSV.
        with file.open(encoding="utf-8-sig", newline="") as text:
            return text.read()
    except FileNotFoundError:
        raise JobError(f"{file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{file} cannot be read as UTF-8 text: {error}") from None


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # Not splitlines: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, value if isinstance(value, dict) else 'not an object, such as {"text": ""}'


def _csv_lines(text: str, source: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "text" not in (reader.fieldnames or ()):
            raise JobError(f"{source}: its first line must name columns, one of them 'text'")
        for row in reader:
            if None in row:
                yield reader.line_num, "more cells than columns; put quotes around commas in a text"
            elif any(row.values()):
                # An empty cell says nothing.
                yield reader.line_num, {name: cell or None for name, cell in row.items()}
    except csv.Error as error:
        raise JobError(f"{source}, after line {reader.line_num}: not CSV: {error}") from None
