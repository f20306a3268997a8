"""Speaks jobs over an engine: its slots are kept full, and each result is told when it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from voxtral_jax.checkpoint.download import find_model, find_own_model
from voxtral_jax.checkpoint.weights import WEIGHTS_FILE
from voxtral_jax.errors import AudioError, CheckpointError, ClosedError, EngineError, VoxtralError
from voxtral_jax.serving.batch.jobs import Job
from voxtral_jax.serving.batch.records import Journal, Result
from voxtral_jax.serving.batch.voices import Voices
from voxtral_jax.serving.engine import Engine, Talk
from voxtral_jax.serving.settings import EngineSettings
from voxtral_jax.text.cleanup import MOST_CHARACTERS
from voxtral_jax.voice import voice_files
from voxtral_jax.watermark import embed

if TYPE_CHECKING:
    from voxtral_jax.model import Model
    from voxtral_jax.speech import Speech

AHEAD = 2
"""Jobs in hand for each slot: one speaks, one is prepared or written."""

TRIES = 3
"""Times that a job is spoken when the device fails."""
PIECES, PIECE = 256, 4096
"""Pieces of a file of weights, and bytes of each, that tell it from another."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The model that speaks: the arguments of `load_model`, so that any machine can load it."""

    model: str | None = None
    dtype: str | None = None
    encoder_weights: str | None = None
    adapter: str | None = None

    @cached_property
    def directory(self) -> Path:
        """Where the model lies.

        Raises:
            CheckpointError: nowhere.
        """
        return find_own_model() if self.model is None else find_model(self.model)

    def voices(self) -> list[str]:
        """Names of its presets."""
        return list(voice_files(self.directory))

    def identity(self) -> str:
        """Tells models apart by their weights, wherever they lie."""
        files = [self.directory / WEIGHTS_FILE]
        files += [Path(name) for name in (self.encoder_weights, self.adapter) if name is not None]
        try:
            return " ".join(_sampled_digest(file) for file in files)
        except OSError as error:
            raise CheckpointError(f"cannot read the model's weights: {error}") from None

    def load(self, devices: int = 1) -> Model:
        """Loads it, spread over several devices if asked to.

        Raises:
            ConfigError, CheckpointError: files are missing or do not fit each other.
        """
        from voxtral_jax import enable_compilation_cache, load_model, make_mesh

        enable_compilation_cache()
        return load_model(
            self.model,
            mesh=make_mesh(tensor=devices) if devices > 1 else None,
            dtype=self.dtype,
            encoder_weights=self.encoder_weights,
            adapter=self.adapter,
        )


def _sampled_digest(file: Path) -> str:
    """A digest of pieces of a file: training changes all of the weights, and they are large."""
    size = file.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as weights:
        for number in range(PIECES):
            weights.seek(number * size // PIECES)
            found.update(weights.read(PIECE))
    return found.hexdigest()


def engine_settings(slots: int) -> EngineSettings:
    """Settings for throughput: nobody waits for first audio, and texts may be as long as any."""
    usual = EngineSettings()
    return EngineSettings(
        slots=slots,
        chunk_frames=(max(usual.chunk_frames),),
        most_waiting=slots * AHEAD,
        longest_text=MOST_CHARACTERS,
    )


class Speaker:
    """Speaks jobs into files of an output directory.

    Args:
        engine: started; it may speak for several lists at once.
        out: where the files go.
        watermark: mark the audio inaudibly.
    """

    def __init__(self, engine: Engine, out: Path, *, watermark: bool) -> None:
        self._engine, self._out, self._watermark = engine, out, watermark
        self._voices = Voices(engine.model)
        self._journal = Journal(out)

    def speak(self, jobs: Sequence[Job], ahead: int) -> Generator[Result]:
        """Speaks in the order of the jobs, and yields results as they come.

        What a job itself is to blame for becomes a result with an error. When the iterator is
        closed, all that is being spoken is cancelled and leaves no file.

        Args:
            jobs: checked.
            ahead: how many are in hand at once.

        Raises:
            EngineError, ClosedError: the device fails again and again.
        """
        talks: set[Talk] = set()
        pool = ThreadPoolExecutor(ahead, thread_name_prefix="batch")
        pending: set[Future[Result | None]] = set()
        try:
            for job in jobs:
                if len(pending) == ahead:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from _results(done)
                pending.add(pool.submit(self._speak, job, talks))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from _results(done)
        finally:
            # Talks that start while these are cancelled are found in the next round.
            for future in pending:
                future.cancel()
            while pending:
                for talk in list(talks):
                    talk.cancel()
                pending = wait(pending, timeout=0.1).not_done
            pool.shutdown()

    def _speak(self, job: Job, talks: set[Talk]) -> Result | None:
        """Speaks one job into its file and the journal; None if it was cancelled."""
        try:
            speech = self._talk(job, talks)
            if speech.finish_reason == "cancelled":
                return None
            if not len(speech.samples):
                raise AudioError("the model ended the speech before any sound; try another seed")
            if self._watermark:
                marked = embed(speech.samples, speech.sample_rate)
                speech = replace(speech, samples=marked)
            file = self._out / job.file
            file.parent.mkdir(parents=True, exist_ok=True)
            speech.save(file, job.format)
            result = Result(
                name=job.name,
                digest=job.digest,
                file=job.file,
                finish_reason=speech.finish_reason,
                seconds=round(speech.seconds, 3),
            )
        except (EngineError, ClosedError):
            # Not the job's fault: it stays undone.
            raise
        except VoxtralError as error:
            result = Result(name=job.name, digest=job.digest, error=str(error))
        # After the file: what the journal names is there.
        self._journal.add(result)
        return result

    def _talk(self, job: Job, talks: set[Talk]) -> Speech:
        """Speaks; what a failure of the device took along is spoken again."""
        for _ in range(TRIES - 1):
            with suppress(EngineError):
                return self._talk_once(job, talks)
        return self._talk_once(job, talks)

    def _talk_once(self, job: Job, talks: set[Talk]) -> Speech:
        talk = self._engine.speak(
            job.text,
            voice=self._voices.of(job),
            seed=job.seed,
            guidance=job.guidance,
            noise_scale=job.noise_scale,
            temperature=job.temperature,
            max_seconds=job.max_seconds,
            language=job.language,
        )
        talks.add(talk)
        try:
            return talk.result()
        finally:
            talks.discard(talk)


def _results(done: set[Future[Result | None]]) -> Generator[Result]:
    for future in done:
        result = future.result()
        if result is not None:
            yield result
