"""Recordings that requests bring: where they come from, and decoding within limits."""

from __future__ import annotations

import base64
import binascii
import io
import math

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio import to_mono
from voxtral_jax.errors import AudioError
from voxtral_jax.serving.http.fetching import Fetcher
from voxtral_jax.serving.http.settings import ServerSettings

BLOCK = 65_536
"""Samples of each channel decoded between two looks at the limit."""
MOST_CHANNELS = 8
RATES = (8_000, 192_000)
"""Sample rates of references, in Hz."""
CONTAINERS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF")
"""What references may come in; libsndfile's rarer readers are not for strangers' files."""


def read_data_uri(uri: str, largest: int) -> bytes:
    """The bytes of `data:audio/...;base64,...`.

    Raises:
        AudioError: it is none, or too large.
    """
    head, comma, data = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise AudioError("ref_audio: a data URI reads data:audio/wav;base64,...")
    if len(data) * 3 // 4 > largest + 2:
        raise AudioError(f"the reference has more than {largest:,} bytes")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise AudioError("ref_audio: the data URI holds no base64") from None


async def open_reference(value: str | bytes, fetch: Fetcher) -> bytes:
    """The file of a reference: an upload as it is, a data URI, or what an allowed URL has.

    Raises:
        AudioError, RequestError: there is no such file, or it is not allowed.
    """
    if isinstance(value, bytes):
        if len(value) > fetch.largest:
            raise AudioError(f"the reference has more than {fetch.largest:,} bytes")
        return value
    if value.startswith("data:"):
        return read_data_uri(value, fetch.largest)
    if value.startswith(("https://", "http://")):
        return await fetch(value)
    raise AudioError("ref_audio must be an upload, a data URI (data:audio/...) or an https:// URL")


def decode_reference(file: bytes, settings: ServerSettings) -> tuple[Float[np.ndarray, " S"], int]:
    """Mono samples and their rate; decodes block by block, and no more than is allowed.

    Headers may lie, and a few kilobytes may hold hours of silence, so neither is believed.

    Raises:
        AudioError: it is no audio, of an odd kind, too long, or not finite.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(file)) as sound:
            if sound.format not in CONTAINERS:
                kinds = ", ".join(CONTAINERS)
                raise AudioError(f"a reference is one of {kinds}, not {sound.format}")
            rate, channels = sound.samplerate, sound.channels
            if not RATES[0] <= rate <= RATES[1] or channels > MOST_CHANNELS:
                raise AudioError(
                    f"the reference has {channels} channels at {rate} Hz; up to {MOST_CHANNELS} "
                    f"at {RATES[0]} to {RATES[1]} Hz are read"
                )
            most = math.floor(settings.longest_reference * rate)
            blocks: list[np.ndarray] = []
            count = 0
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                count += len(block)
                if count > most:
                    raise AudioError(
                        f"the reference lasts more than {settings.longest_reference:.0f} s; "
                        "cut out 3 to 30 s of the voice"
                    )
                if not np.isfinite(block).all():
                    raise AudioError("the reference holds samples that are not finite")
                blocks.append(to_mono(block))
    except AudioError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError(f"the reference cannot be read as audio: {error}") from None
    if not blocks:
        raise AudioError("the reference holds no audio")
    return np.concatenate(blocks), rate
