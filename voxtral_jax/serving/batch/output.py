"""The output directory of a run: taken by one run at a time, and left without partial files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from voxtral_jax.errors import JobError
from voxtral_jax.files import TEMPORARY
from voxtral_jax.locking import held
from voxtral_jax.serving.batch.jobs import RESULTS, Job
from voxtral_jax.serving.batch.records import JOURNALS, merge

LOCK = "lock"


@contextmanager
def taken(out: Path, *, resume: bool) -> Iterator[None]:
    """Holds the output directory while the block runs; a killed run lets go of it by itself.

    Args:
        out: created if it is not there.
        resume: whether it may hold something.

    Raises:
        JobError: it holds something, another run is at work in it, or it cannot be written.
    """
    busy = JobError(f"another run is at work in {out}; wait for it, or end it")
    with ExitStack() as lock:
        try:
            out.mkdir(parents=True, exist_ok=True)
            if not resume and any(out.iterdir()):
                raise JobError(
                    f"{out} is not empty: --resume does what is missing there, or name another "
                    "--out"
                )
            (out / JOURNALS).mkdir(exist_ok=True)
            lock.enter_context(held(out / JOURNALS / LOCK, busy))
        except OSError as error:
            raise JobError(f"{out} cannot be written: {error}") from None
        try:
            remove_partial(out)
            yield
        finally:
            remove_partial(out)


def left_to_do(out: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not done, longest first; audio of lines that changed since is removed.

    The list of results goes too: it is there only after a run that came to its end.
    """
    (out / RESULTS).unlink(missing_ok=True)
    results = merge(out)
    left = []
    for job in jobs:
        result = results.get(job.name)
        if result is not None and result.settles(job, out):
            continue
        if result is not None and result.file is not None:
            (out / result.file).unlink(missing_ok=True)
        left.append(job)
    # The last ones to end are short, so that no long one runs alone at the end.
    return sorted(left, key=lambda job: -job.expected_seconds)


def remove_partial(out: Path) -> None:
    """Removes what killed writers left behind."""
    for file in out.rglob("*.tmp-*"):
        if re.search(TEMPORARY + "$", file.name) and file.is_file():
            file.unlink(missing_ok=True)
