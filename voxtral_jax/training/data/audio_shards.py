"""Puts recordings into shards, for data sets of very many files or on slow disks."""

from __future__ import annotations

import io
import os
from pathlib import Path

from voxtral_jax.errors import AudioError, DataError
from voxtral_jax.training.data.manifest import AUDIO, Broken, Manifest
from voxtral_jax.training.data.recordings import go_to, opened, span_of
from voxtral_jax.training.data.records import RecordWriter
from voxtral_jax.training.data.utterances import Utterance

AS_IS = (".flac", ".ogg", ".opus", ".mp3")
"""Whole files with these suffixes are stored as they are."""
INTEGERS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "ULAW": 16,
    "ALAW": 16,
    "PCM_24": 24,
    "PCM_32": 32,
}
"""Sample formats that are integers, and their bits; FLAC holds 24 at most."""


def write_audio_shards(
    manifest: Manifest, directory: str | os.PathLike[str], shard_bytes: int
) -> tuple[Broken, ...]:
    """Writes the utterances of a manifest into shards that `read_manifest` reads.

    Parts of recordings are cut out as FLAC. Utterances that are in complete shards there already
    are left as they are, so the same call finishes what was interrupted.

    Args:
        manifest: of files.
        directory: where to.
        shard_bytes: a shard is complete when it has so many.

    Returns:
        Utterances that could not be decoded; they are left out.

    Raises:
        DataError: the directory cannot be written to, or holds something corrupt; or recordings
            have a goal or pitch, for which shards have no place.
    """
    for utterance in manifest.utterances:
        if utterance.goal is not None or utterance.pitch:
            raise DataError(
                f"shards cannot hold 'goal' and 'pitch' of {utterance.key}; leave it in files"
            )
    broken = []
    with RecordWriter(directory, AUDIO, shard_bytes) as writer:
        for utterance in manifest.utterances:
            if utterance.key in writer.done:
                continue
            try:
                audio = _encoded(utterance)
            except AudioError as error:
                broken.append(Broken(utterance.key, str(error)))
                continue
            about = {
                "audio": utterance.audio,
                "texts": list(utterance.texts),
                "language": utterance.language,
                "speaker": utterance.speaker,
                "phonemes": utterance.phonemes,
                "phoneme_ends": list(utterance.phoneme_ends),
                "start": utterance.start,
                "end": utterance.end,
                "seconds": utterance.seconds,
            }
            record = {**about, "name": utterance.key, "audio": audio}
            writer.write(record, {"key": utterance.key, **about}, len(audio))
    return tuple(broken)


def _encoded(utterance: Utterance) -> bytes:
    """The utterance's audio as a file."""
    import soundfile

    with opened(utterance) as sound:
        begin, stop = span_of(utterance, sound)
        path = Path(utterance.file)
        whole = begin == 0 and stop == sound.frames and utterance.record is None
        if whole and path.suffix.lower() in AS_IS:
            return path.read_bytes()
        go_to(sound, begin)
        # libsndfile scales floats on their way to integers, but not exactly.
        kind = "int32" if sound.subtype in INTEGERS else "float64"
        samples = sound.read(stop - begin, dtype=kind, always_2d=True)
        if not len(samples):
            raise AudioError(f"{utterance.key} holds no audio")
        subtype = "PCM_16" if INTEGERS.get(sound.subtype, 24) <= 16 else "PCM_24"
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, sound.samplerate, subtype, format="FLAC")
        return encoded.getvalue()
