"""The command line of the evaluation: parse, call the library, print."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from voxtral_jax.cli import main as run_app
from voxtral_jax.cli import say
from voxtral_jax.errors import ConfigError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
DEFAULT = "default"
"""Name of the model that ships with the project."""


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help='Directory of a model, a hub id, or "default".')],
    test_set: Annotated[
        Path, typer.Option("--set", help="seed-tts-eval list, or manifest of JSON lines.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for audio, scores and reports.")] = Path(
        "evaluation"
    ),
    limit: Annotated[int | None, typer.Option(help="Sentences of each language.")] = None,
    judges: Annotated[
        str | None, typer.Option(help="Names with commas, or none (default: all installed).")
    ] = None,
    conditions: Annotated[
        str, typer.Option(help="What to hear, with commas.")
    ] = "recording,codec,preset,clone,cross,long",
    reference_seconds: Annotated[
        str, typer.Option(help="Lengths of references, with commas.")
    ] = "3,10",
    language: Annotated[str | None, typer.Option(help="Of a list's texts (or detected).")] = None,
    long_texts: Annotated[int, typer.Option(help="Long texts of each language.")] = 1,
    samples: Annotated[int, typer.Option(help="Sentences of each language on the page.")] = 2,
    seed: Annotated[int, typer.Option(help="Of all speech.")] = 0,
    batch: Annotated[int, typer.Option(help="Texts spoken together.")] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads of each judge.")] = 1,
    guidance: Annotated[float | None, typer.Option(help="As in synthesize.")] = None,
    noise_scale: Annotated[float | None, typer.Option(help="As in synthesize.")] = None,
    steps: Annotated[int | None, typer.Option(help="As in synthesize.")] = None,
    solver: Annotated[str | None, typer.Option(help="As in synthesize.")] = None,
    temperature: Annotated[float | None, typer.Option(help="As in synthesize.")] = None,
    top_p: Annotated[float | None, typer.Option(help="As in synthesize.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="As in synthesize.")] = None,
    encoder_weights: Annotated[Path | None, typer.Option(help="As in load_model.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="As in load_model.")] = None,
    dtype: Annotated[str | None, typer.Option(help="As in load_model.")] = None,
) -> None:
    """Speaks a test set, lets judges hear it, and writes results.json, results.md, index.html."""
    from voxtral_jax import enable_compilation_cache, load_model
    from voxtral_jax.evaluation.evaluate import Plan
    from voxtral_jax.evaluation.evaluate import evaluate as run
    from voxtral_jax.evaluation.report import markdown
    from voxtral_jax.utterance import Options

    options: dict[str, Any] = {
        name: value
        for name, value in (
            ("guidance", guidance),
            ("noise_scale", noise_scale),
            ("steps", steps),
            ("solver", solver),
            ("temperature", temperature),
            ("top_p", top_p),
            ("max_seconds", max_seconds),
        )
        if value is not None
    }
    Options(**options)
    plan = Plan(
        test_set=test_set,
        out=out,
        conditions=_names(conditions),
        judges=None if judges is None else [] if judges == "none" else _names(judges),
        limit=limit,
        lengths=_lengths(reference_seconds),
        language=language,
        long_texts=long_texts,
        samples=samples,
        seed=seed,
        batch=batch,
        threads=threads,
        options=options,
    )
    enable_compilation_cache()
    which = [] if model == DEFAULT else [model]
    loaded = load_model(*which, encoder_weights=encoder_weights, adapter=adapter, dtype=dtype)
    print(markdown(run(loaded, Path(model).name, plan, _show)))
    say(f"{out / 'index.html'} has players")


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _lengths(value: str) -> list[float]:
    try:
        return [float(name) for name in _names(value)]
    except ValueError:
        raise ConfigError(f"--reference-seconds must be numbers, got {value!r}") from None


def _show(what: str, done: int, of: int) -> None:
    say(f"{what}: {done} of {of}")


def main(arguments: Iterable[str] | None = None) -> None:
    """Runs the command line; mistakes of the user are one line on stderr and exit code 2."""
    run_app(arguments, app)
