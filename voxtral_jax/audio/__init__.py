"""Audio in and out of the model: files, references to clone, joints between parts."""

from voxtral_jax.audio.joining import PartJoiner
from voxtral_jax.audio.reading import read_audio, resample, to_mono
from voxtral_jax.audio.reference import prepare_reference
from voxtral_jax.audio.writing import (
    FORMATS,
    check_output,
    encode,
    find_player,
    format_of,
    pcm,
    play,
    wav_stream_header,
    write_audio,
)

__all__ = [
    "FORMATS",
    "PartJoiner",
    "check_output",
    "encode",
    "find_player",
    "format_of",
    "pcm",
    "play",
    "prepare_reference",
    "read_audio",
    "resample",
    "to_mono",
    "wav_stream_header",
    "write_audio",
]
