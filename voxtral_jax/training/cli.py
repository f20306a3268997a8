"""The command line of training: parse, call the stage, print. `train.py` and `voxtral-train`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from voxtral_jax.errors import VoxtralError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Stage(StrEnum):
    """What can be run, in the order of a whole training."""

    CODEC = "codec"
    TOKENIZE = "tokenize"
    SPEECH = "speech"
    DPO = "dpo"
    EXPORT = "export"


@app.command()
def train(
    stage: Annotated[Stage, typer.Argument(help="What to run.")],
    config: Annotated[Path, typer.Option(help="TOML file of the stage.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Replace values of the file: section.key=value ...", metavar="KEY=VALUE"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Print sizes, memory and operations, and start nothing.")
    ] = False,
) -> None:
    """Trains one stage; a run that was stopped goes on when the same command is given again."""
    from voxtral_jax.compilation import enable_compilation_cache
    from voxtral_jax.training import stages
    from voxtral_jax.training.distributed import join_cluster
    from voxtral_jax.training.logs import quiet_libraries
    from voxtral_jax.training.settings import load_settings

    settings: Any = load_settings(stages.SETTINGS[stage], config, overrides or [])
    if dry_run:
        from voxtral_jax.training.costs import dry_run as describe

        if stage not in stages.TASKS:
            raise typer.BadParameter(f"{stage} trains nothing; --dry-run is for the other stages")
        for line in describe(stages.TASKS[stage](settings, read_data=False), settings):
            print(line)
        return
    quiet_libraries()
    join_cluster()
    enable_compilation_cache()
    for line in stages.run(stage, settings):
        print(line)


def main(arguments: Iterable[str] | None = None) -> None:
    """Runs the command line; mistakes of the user are one line on stderr and exit code 2."""
    try:
        app(args=None if arguments is None else list(arguments))
    except VoxtralError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
