"""`voxtral batch`: parse, check, speak here or on a cluster, sum up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtral_jax.cli import AdapterOption, DtypeOption, EncoderOption, ModelOption
from voxtral_jax.errors import ClosedError, EngineError, RequestError

if TYPE_CHECKING:
    from voxtral_jax.serving.batch.jobs import Job
    from voxtral_jax.serving.batch.progress import Progress
    from voxtral_jax.serving.batch.running import ModelFiles

FAILED = 1
INTERRUPTED = 130


def batch(
    jobs: Annotated[
        Path,
        typer.Argument(
            help="JSON lines or CSV, a directory of .txt, or - for JSON lines from stdin."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory for audio and results.jsonl.")],
    resume: Annotated[
        bool, typer.Option(help="Do what is missing, changed or failed in --out.")
    ] = False,
    voice: Annotated[str | None, typer.Option(help="Of lines that name none.")] = None,
    ref: Annotated[str | None, typer.Option(help="Recording to clone, likewise.")] = None,
    language: Annotated[str | None, typer.Option(help="Likewise (default: detected).")] = None,
    format: Annotated[str | None, typer.Option(help="Likewise (default: wav).")] = None,
    seed: Annotated[int | None, typer.Option(help="Likewise.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    noise_scale: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    model: ModelOption = None,
    encoder_weights: EncoderOption = None,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    slots: Annotated[int, typer.Option(help="Texts spoken side by side.", min=1)] = 8,
    watermark: Annotated[bool, typer.Option(help="Mark the audio inaudibly.")] = True,
    ray: Annotated[
        str | None,
        typer.Option(help='Speak on a Ray cluster: its address, "auto", or "local" to start one.'),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes with a model each (with --ray).", min=1)
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of each worker (with --ray).", min=0)
    ] = None,
) -> None:
    """Speaks a list of texts into files.

    Exit codes: 0 all done, 1 some failed, 2 bad input, 130 interrupted.
    """
    if ray is None and (workers is not None or gpus is not None):
        raise RequestError("--workers and --gpus are for --ray; without it one model speaks here")
    if voice is not None and ref is not None:
        raise RequestError("give --voice or --ref, not both")
    from voxtral_jax.cli import say
    from voxtral_jax.serving.batch.cluster import Cluster, speak_on_cluster
    from voxtral_jax.serving.batch.interruption import terminated_as_interrupted
    from voxtral_jax.serving.batch.jobs import RESULTS
    from voxtral_jax.serving.batch.output import left_to_do, taken
    from voxtral_jax.serving.batch.progress import Progress
    from voxtral_jax.serving.batch.reading import read_jobs
    from voxtral_jax.serving.batch.records import merge, write_results
    from voxtral_jax.serving.batch.running import ModelFiles

    files = ModelFiles(
        # A hub id is no path.
        model=str(Path(model).absolute()) if model is not None and Path(model).is_dir() else model,
        dtype=dtype,
        encoder_weights=None if encoder_weights is None else str(encoder_weights.absolute()),
        adapter=None if adapter is None else str(adapter.absolute()),
    )
    defaults: dict[str, Any] = {
        "voice": voice,
        "ref": ref,
        "language": language,
        "format": format,
        "seed": seed,
        "guidance": guidance,
        "noise_scale": noise_scale,
        "temperature": temperature,
        "max_seconds": max_seconds,
    }
    read = read_jobs(
        jobs,
        defaults=defaults,
        voices=files.voices(),
        # Audio without the mark is another result.
        model=files.identity() if watermark else f"{files.identity()} unmarked",
        stdin=sys.stdin,
    )
    with taken(out, resume=resume), terminated_as_interrupted():
        left = left_to_do(out, read)
        progress = Progress(left, len(read))
        how_to_go_on = "the same command with --resume goes on from there"
        try:
            if left and ray is None:
                _speak_here(files, left, out, progress, slots=slots, watermark=watermark)
            elif ray is not None and left:
                cluster = Cluster(
                    address=ray,
                    workers=workers or 1,
                    gpus=gpus or 0,
                    slots=slots,
                    watermark=watermark,
                )
                with closing(speak_on_cluster(cluster, files, left, out)) as results:
                    progress.count(results)
        except KeyboardInterrupt:
            done = len(read) - len(left_to_do(out, read))
            say(f"interrupted with {done} of {len(read)} done; {how_to_go_on}")
            raise typer.Exit(INTERRUPTED) from None
        except (EngineError, ClosedError, OSError) as error:
            say(f"error: {error}; {how_to_go_on}")
            raise typer.Exit(FAILED) from None
        write_results(out, read, merge(out))
    say(f"{out / RESULTS}: {progress}, {progress.seconds:.1f} s of audio in this run")
    if progress.failed:
        say("lines with an error say why; the same command with --resume tries them again")
        raise typer.Exit(FAILED)


def _speak_here(
    files: ModelFiles,
    jobs: Sequence[Job],
    out: Path,
    progress: Progress,
    *,
    slots: int,
    watermark: bool,
) -> None:
    from voxtral_jax.codec.run import require_encoder
    from voxtral_jax.serving.batch.running import AHEAD, Speaker, engine_settings
    from voxtral_jax.serving.engine import Engine

    model = files.load()
    if any(job.ref is not None for job in jobs):
        require_encoder(model)
    with (
        Engine(model, engine_settings(slots)) as engine,
        closing(Speaker(engine, out, watermark=watermark).speak(jobs, slots * AHEAD)) as results,
    ):
        progress.count(results)
