"""The command line: parse, call the library, print. `infer.py`, and the console script `voxtral`.

`infer.py` speaks; `voxtral` has that as `voxtral speak` beside the commands of `COMMANDS`.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtral_jax.errors import RequestError, TextError, VoxtralError

if TYPE_CHECKING:
    from voxtral_jax.model import Model
    from voxtral_jax.speech import Speech

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
COMMANDS = {
    "serve": "voxtral_jax.serving.http.command",
    "batch": "voxtral_jax.serving.batch.command",
    "detect": "voxtral_jax.watermark.command",
}
"""Command -> the module that has the function of its name."""
ModelOption = Annotated[
    str | None,
    typer.Option(help="Directory of a model, or a hub id (default: the small model within)."),
]
EncoderOption = Annotated[
    Path | None, typer.Option(help="Codec encoder weights, if the model has none.")
]
AdapterOption = Annotated[
    Path | None, typer.Option(help="Adapter to merge into the model (.safetensors).")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or int8 weights (default: by device).")
]
"""Which model, for all commands that load one."""
STDOUT = "-"
DEFAULT_OUT = "speech.wav"


def say(message: str) -> None:
    """To stderr: stdout belongs to the audio."""
    print(message, file=sys.stderr, flush=True)


@app.command()
def speak(
    text: Annotated[str | None, typer.Option(help="What to say.")] = None,
    text_file: Annotated[
        Path | None, typer.Option(help="File with what to say (UTF-8); - is stdin.")
    ] = None,
    ref: Annotated[Path | None, typer.Option(help="Recording to clone, 1 to 60 s.")] = None,
    voice: Annotated[
        str | None,
        typer.Option(
            help="Preset voice, or a saved .safetensors voice (default: by the text's language)."
        ),
    ] = None,
    list_voices: Annotated[bool, typer.Option(help="List the preset voices and exit.")] = False,
    model: ModelOption = None,
    encoder_weights: EncoderOption = None,
    adapter: AdapterOption = None,
    out: Annotated[
        str | None, typer.Option(help="Output file, or - for stdout (default: speech.wav).")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="wav, flac, ogg, opus, mp3 or pcm (default: the suffix).")
    ] = None,
    stream: Annotated[
        bool, typer.Option(help="Play while speaking; with --out - write to stdout meanwhile.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same audio.")] = 0,
    guidance: Annotated[
        float | None, typer.Option(help="Of the flow; 1 is none (default: the model's).")
    ] = None,
    noise_scale: Annotated[
        float | None,
        typer.Option(help="Of the flow's start; less is clearer (default: the model's)."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Flow steps (default: the model's).")] = None,
    solver: Annotated[str, typer.Option(help="euler or midpoint.")] = "euler",
    temperature: Annotated[float, typer.Option(help="Of the semantic code; 0: likeliest.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability drawn from.")] = 1.0,
    max_seconds: Annotated[float | None, typer.Option(help="Cut the speech after.")] = None,
    dtype: DtypeOption = None,
    language: Annotated[
        str | None, typer.Option(help='Of the text, such as "en" (default: detected).')
    ] = None,
    raw_text: Annotated[bool, typer.Option(help="Do not clean up the text.")] = False,
    save_voice: Annotated[
        Path | None, typer.Option(help="Also save the voice of --ref here (.safetensors).")
    ] = None,
) -> None:
    """Speaks a text with a preset voice or a cloned one."""
    if list_voices:
        for line in _voice_table(model):
            print(line)
        return
    # All that can be wrong is looked at before the model loads.
    what = _text(text, text_file)
    _check_target(out, format, stream=stream)
    if save_voice is not None and ref is None:
        raise RequestError("--save-voice needs --ref, the recording whose voice is saved")
    if voice is not None and ref is not None:
        raise RequestError("give --voice or --ref, not both")
    begun = time.perf_counter()
    from voxtral_jax import Voice, enable_compilation_cache, load_model, make_voice
    from voxtral_jax.audio import read_audio
    from voxtral_jax.text import check
    from voxtral_jax.utterance import Options
    from voxtral_jax.voice import SUFFIXES

    check(what)
    how: dict[str, Any] = {
        "guidance": guidance,
        "noise_scale": noise_scale,
        "steps": steps,
        "solver": solver,
        "temperature": temperature,
        "top_p": top_p,
        "max_seconds": max_seconds,
        "normalize_text": not raw_text,
    }
    Options(**how)
    how["language"] = language
    recording = None if ref is None else read_audio(ref)
    speaker: str | Voice | None = voice
    if voice is not None and voice.endswith(SUFFIXES):
        speaker = Voice.load(voice)

    enable_compilation_cache()
    loaded = load_model(model, dtype=dtype, encoder_weights=encoder_weights, adapter=adapter)
    if ref is not None and recording is not None:
        speaker = make_voice(loaded, recording, name=ref.stem)
        if save_voice is not None:
            speaker.save(save_voice)
    say(f"loaded {loaded.source} in {time.perf_counter() - begun:.1f} s")
    options = {"voice": speaker, "seed": seed, **how}
    if stream:
        _stream(loaded, what, options, format, to_stdout=out == STDOUT)
    else:
        _write(loaded, what, options, format, out or DEFAULT_OUT)


def _voice_table(model: str | None) -> Iterator[str]:
    """One line for each preset voice: name, language, gender, seconds, character."""
    from voxtral_jax.checkpoint.download import find_model, find_own_model
    from voxtral_jax.config import VoxtralConfig
    from voxtral_jax.voice import Voice, voice_files

    directory = find_own_model() if model is None else find_model(model)
    rate = VoxtralConfig.load(directory).codec.frame_rate
    files = voice_files(directory)
    width = max(map(len, files), default=0)
    for name in sorted(files):
        voice = Voice.load(files[name])
        # The prompt ends with a frame that is no sound.
        about, seconds = voice.about, (len(voice.embedding) - 1) / rate
        gender, language = about.gender or "-", about.language or "-"
        default = f"  (default for {about.default_for})" if about.default_for else ""
        line = f"{name:{width}}  {language:2}  {gender:6}  {seconds:4.1f} s  {about.character}"
        yield (line + default).rstrip()


def _check_target(out: str | None, format: str | None, *, stream: bool) -> None:
    from voxtral_jax.audio import check_output, find_player

    if not stream:
        check_output(out or DEFAULT_OUT, format)
        return
    if out not in (None, STDOUT):
        raise RequestError("--stream plays or writes to stdout (--out -); leave it out for a file")
    if format not in (None, "wav", "pcm"):
        raise RequestError(f"a stream is wav or pcm, not {format!r}")
    if out is None:
        find_player()


def _text(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise TextError("give what to say with --text or with --text-file")
    if text is not None:
        return text
    assert file is not None
    try:
        return sys.stdin.read() if str(file) == STDOUT else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"cannot read {file} as UTF-8 text: {error}") from None


def _write(model: Model, text: str, options: dict[str, Any], format: str | None, out: str) -> None:
    from rich.console import Console

    from voxtral_jax import synthesize
    from voxtral_jax.audio import encode

    console = Console(stderr=True)
    with console.status("speaking") if console.is_terminal else nullcontext() as status:

        def progress(seconds: float) -> None:
            if status is not None:
                status.update(f"speaking: {seconds:.1f} s")

        speech = synthesize(model, text, on_progress=progress, **options)
    if out == STDOUT:
        sys.stdout.buffer.write(encode(speech.samples, speech.sample_rate, format or "wav"))
        sys.stdout.buffer.flush()
    else:
        speech.save(out, format)
    _summary(out, speech.seconds, speech.timings.first_audio, speech.timings.total, speech)


def _stream(
    model: Model, text: str, options: dict[str, Any], format: str | None, *, to_stdout: bool
) -> None:
    from voxtral_jax import stream as stream_speech
    from voxtral_jax.audio import pcm, play, wav_stream_header

    last: list[Speech] = []
    seconds = 0.0

    def chunks() -> Iterator[Speech]:
        nonlocal seconds
        for chunk in stream_speech(model, text, **options):
            seconds += chunk.seconds
            last[:] = [chunk]
            yield chunk

    if to_stdout:
        if format != "pcm":
            sys.stdout.buffer.write(wav_stream_header(model.sample_rate))
        for chunk in chunks():
            sys.stdout.buffer.write(pcm(chunk.samples))
            sys.stdout.buffer.flush()
    else:
        play((chunk.samples for chunk in chunks()), model.sample_rate)
    timings = last[0].timings
    target = "stdout" if to_stdout else "player"
    _summary(target, seconds, timings.first_audio, timings.total, last[0])


def _summary(out: str, seconds: float, first: float, total: float, speech: Speech) -> None:
    factor = total / seconds if seconds else float("inf")
    say(
        f"{out}: {seconds:.2f} s of audio, first audio after {first:.2f} s, "
        f"real-time factor {factor:.3f}, finished by {speech.finish_reason}"
    )


def main(arguments: Iterable[str] | None = None, app: typer.Typer = app) -> None:
    """Runs a command line; mistakes of the user are one line on stderr and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        app(args=None if arguments is None else list(arguments))
    except VoxtralError as error:
        say(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The player or pipe at the other end is gone; there is nobody to tell.
        sys.stderr.close()
        raise SystemExit(1) from None


def voxtral(arguments: Iterable[str] | None = None) -> None:
    """Runs a command line of the console script."""
    commands = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    commands.command()(speak)
    for name, module in COMMANDS.items():
        commands.command(name)(getattr(importlib.import_module(module), name))
    main(arguments, commands)
