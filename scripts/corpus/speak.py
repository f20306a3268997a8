"""A teacher speaks the corpus, offline: Kokoro-82M in many blended voices, or a faster one.

    python scripts/corpus/speak.py corpus/texts.jsonl corpus/audio --voices package/voices \\
        --hours en=10 --hours de=1 ... --worker 0 --workers 2
    python scripts/corpus/speak.py corpus/texts.jsonl corpus/audio --teacher pico --hours de=1

Which sentence is spoken by whom, and how fast, follows from the seed and the sentence's place
alone: workers share the work by number, and the same command goes on where it was stopped. Each
recording has a line in `audio/lines-*.jsonl`. `--beyond data/nano/codes/train` speaks sentences
that are not in those shards yet, with the seed of before and more hours, or with another seed;
speakers are the same whatever the seed. `--presets data/nano/presets` has preset voices alone
speak, each in its language. Needs the packages in `scripts/corpus/requirements.txt` and the voices
of npm's `kokoro-js`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import mei
import soundfile
import typer
from joe import Joe
from pico import Pico
from plan import beyond, make_plan, share
from teacher import RATE, Kokoro, Played, Sound
from voices import fast_speakers, load_voices, make_speakers, only_presets

from voxtral_jax.errors import TextError
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.progress import followed
from voxtral_jax.training.data.shards import CodeSource


class Teacher(StrEnum):
    """Who speaks."""

    KOKORO = "kokoro"
    JOE = "joe"
    PICO = "pico"
    MEI = "mei"


FAST: dict[Teacher, Callable[[], Callable[[str, str, str, float], Sound]]] = {
    Teacher.JOE: lambda: Joe().say,
    Teacher.PICO: lambda: Pico().say,
    Teacher.MEI: lambda: mei.say,
}
"""Teachers that bring their voices along."""


def spoken_before(out: Path) -> set[str]:
    """Names of recordings that any worker has finished."""
    files = out.glob("lines-*.jsonl")
    return {line["audio"].removesuffix(".flac") for file in files for line in read_lines(file)}


def sentences_of(folder: Path) -> set[tuple[str, str]]:
    """Languages and sentences in a folder of shards of codes."""
    return {(one.language, text) for one in CodeSource(folder).entries for text in one.texts}


def main(
    texts: Annotated[Path, typer.Argument(help="sentences, from texts.py")],
    out: Annotated[Path, typer.Argument(help="folder for recordings and their lines")],
    hours: Annotated[list[str], typer.Option(help="language=hours, several times")],
    teacher: Annotated[Teacher, typer.Option()] = Teacher.KOKORO,
    voices: Annotated[Path, typer.Option(help="folder of Kokoro's .bin voices")] = Path(
        "package/voices"
    ),
    worker: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    known: Annotated[
        list[Path] | None,
        typer.Option("--beyond", exists=True, help="shards of codes that are there already"),
    ] = None,
    presets: Annotated[
        Path | None,
        typer.Option(exists=True, help="only preset voices, each in its language"),
    ] = None,
) -> None:
    """Speaks one worker's share of the corpus on one core."""
    wanted = {language: float(value) for language, _, value in (h.partition("=") for h in hours)}
    speaking: Kokoro | Played
    if teacher is Teacher.KOKORO:
        styles = load_voices(voices)
        speaking, speakers = Kokoro(styles), make_speakers(sorted(styles))
    else:
        speaking, speakers = Played(FAST[teacher]()), fast_speakers(teacher)
    if presets is not None:
        speakers = only_presets(speakers, presets)
    lines = make_plan(texts, speakers, wanted, seed)
    if known:
        lines = beyond(lines, set().union(*map(sentences_of, known)))
    out.mkdir(parents=True, exist_ok=True)
    listing = out / f"lines-{teacher}-{worker}-of-{workers}.jsonl"
    left = list(share(lines, worker, workers, spoken_before(out)))
    for line in followed(left, f"worker {worker}, lines spoken", len(left)):
        try:
            spoken = speaking.speak(line.text, line.language, line.speaker.parts, line.speed)
        except TextError as error:
            print(f"left out: {error}")
            continue
        file = out / f"{line.name}.flac"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, spoken.samples, RATE, subtype="PCM_16")
        entry = {
            "audio": f"{line.name}.flac",
            "text": line.text,
            "language": line.language,
            "speaker": line.speaker.name,
            "phonemes": spoken.phonemes,
            "phoneme_ends": spoken.ends,
            "split": line.split,
            "seconds": round(len(spoken.samples) / RATE, 3),
        }
        append_line(listing, entry)


if __name__ == "__main__":
    typer.run(main)
