"""`train.py tokenize`: recordings to code shards, once, so that speech training reads codes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from rich.progress import track

from voxtral_jax.audio.activity import voice_activity
from voxtral_jax.audio.reference import MARGIN, SILENT_PEAK, normalise_loudness, sounding_spans
from voxtral_jax.codec import fold
from voxtral_jax.codec.run import encode_batch
from voxtral_jax.config import CodecConfig, VoxtralConfig
from voxtral_jax.errors import AudioError, CheckpointError, DataError
from voxtral_jax.kernels import default_kernels
from voxtral_jax.parameters import Params
from voxtral_jax.training.data.manifest import Utterance, read_manifest
from voxtral_jax.training.data.recordings import read_utterance
from voxtral_jax.training.data.shards import CodeRecord, CodeWriter, done_keys
from voxtral_jax.training.settings import Count, Share
from voxtral_jax.training.sources import source_config
from voxtral_jax.training.speaking import load_codec
from voxtral_jax.training.stages.codec import manifest_notes

AHEAD = 4
"""Batches that are read while one is encoded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """`tokenize.toml`.

    Attributes:
        codec: model or run whose codec encodes.
        manifest: of recordings with transcripts.
        out: directory of the shards; a second call goes on where the first was stopped.
        batch_size: recordings encoded side by side.
        as_references: trim silence and bring to one loudness, as inference does to a reference.
        most_broken: share of the manifest that may be broken.
    """

    codec: str
    manifest: str
    out: str
    batch_size: Count = 16
    as_references: bool = True
    most_broken: Share = 0.05


def tokenize(settings: TokenizeSettings) -> list[str]:
    """Encodes every utterance that the shards do not have yet.

    Returns:
        What to tell: how much was encoded, and what could not be.

    Raises:
        DataError: the manifest cannot be used, or too much of it is broken.
    """
    config = source_config(settings.codec)
    codec = encoder_of(settings.codec, config)
    manifest = read_manifest(settings.manifest, need_text=True, most_broken=settings.most_broken)
    notes = list(manifest_notes(manifest))
    index, count = jax.process_index(), jax.process_count()
    out = Path(settings.out) if count == 1 else Path(settings.out) / f"host-{index:05d}"
    done = done_keys(out)
    mine = [one for one in manifest.utterances[index::count] if one.key not in done]
    # Alike in length, batches have little padding.
    mine.sort(key=lambda one: one.seconds, reverse=True)
    failed: list[str] = []
    batches = [mine[i : i + settings.batch_size] for i in range(0, len(mine), settings.batch_size)]
    with CodeWriter(out) as writer:
        read = _read_ahead(batches, settings, config.codec.sampling_rate)
        for loaded in track(read, "encoding", total=len(batches)):
            good = [(one, audio) for one, audio in loaded if isinstance(audio, np.ndarray)]
            failed += [f"{one.key}: {why}" for one, why in loaded if isinstance(why, str)]
            for record in _encode(codec, config.codec, good, settings.batch_size):
                writer.write(record)
    notes.append(f"{len(mine) - len(failed):,} encoded, {len(done):,} were there already")
    if failed:
        notes.append(f"{len(failed)} could not be read and are left out:")
        notes += [f"  {line}" for line in failed]
    if len(failed) > settings.most_broken * max(1, len(mine)):
        raise DataError(
            f"{len(failed)} of {len(mine)} recordings could not be read, more than most_broken = "
            f"{settings.most_broken:.0%}: {'; '.join(failed[:3])}"
        )
    return notes


def encoder_of(path: str, config: VoxtralConfig) -> Params:
    """The folded codec of a model or a run.

    Raises:
        CheckpointError: it has no encoder.
    """
    params = load_codec(path, config)
    if "input_proj" not in params:
        raise CheckpointError(f"{path} has no weights of the codec's encoder, which tokens need")
    return fold(params, config.codec)


def _read_ahead(
    batches: Sequence[Sequence[Utterance]], settings: TokenizeSettings, rate: int
) -> Iterator[list[tuple[Utterance, Float[np.ndarray, " S"] | str]]]:
    """Batches with their samples, or why there are none; read by threads some batches ahead."""

    def read(one: Utterance) -> tuple[Utterance, Float[np.ndarray, " S"] | str]:
        try:
            samples = read_utterance(one, rate)
            if not settings.as_references:
                return one, samples
            samples, first = as_reference(samples, rate)
            ends = tuple(max(0.0, round(end - first / rate, 3)) for end in one.phoneme_ends)
            return replace(one, phoneme_ends=ends), samples
        except (AudioError, DataError) as error:
            return one, str(error)

    with ThreadPoolExecutor() as pool:
        remaining = iter(batches)
        waiting = [[pool.submit(read, one) for one in batch] for batch in islice(remaining, AHEAD)]
        while waiting:
            yield [future.result() for future in waiting.pop(0)]
            waiting += [[pool.submit(read, one) for one in batch] for batch in islice(remaining, 1)]


def as_reference(
    samples: Float[np.ndarray, " S"], rate: int
) -> tuple[Float[np.ndarray, " S"], int]:
    """Trimmed and at the loudness that references are brought to, and the first sample kept.

    Raises:
        AudioError: it is silent.
    """
    if np.abs(samples).max() < SILENT_PEAK:
        raise AudioError("the recording is silent")
    spans = sounding_spans(samples, rate)
    margin = round(MARGIN * rate)
    first, last = max(0, spans[0][0] - margin), spans[-1][1] + margin
    return normalise_loudness(samples[first:last], rate), first


def _encode(
    codec: Params,
    config: CodecConfig,
    recordings: Sequence[tuple[Utterance, Float[np.ndarray, " S"]]],
    rows: int,
) -> Iterator[CodeRecord]:
    if not recordings:
        return
    # Rows of one frame fill the batch up: one program serves all batches of a length.
    spare = [np.zeros(config.frame_samples, np.float32)] * (rows - len(recordings))
    samples = [audio for _, audio in recordings] + spare
    codes = encode_batch(codec, config, samples, default_kernels())
    for (one, audio), made in zip(recordings, codes, strict=False):
        yield CodeRecord(
            key=one.key,
            codes=made,
            speech=voice_activity(audio, config.sampling_rate, len(made), config.frame_rate),
            texts=one.texts,
            language=one.language,
            speaker=one.speaker,
            phoneme_ends=one.phoneme_ends,
            audio=one.audio,
            start=one.start,
            end=one.start + one.seconds,
        )
