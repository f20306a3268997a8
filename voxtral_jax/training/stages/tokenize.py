"""`train.py tokenize`: recordings to code shards, once, so that speech training reads codes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import grain
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from voxtral_jax.audio.activity import voice_activity
from voxtral_jax.audio.reference import MARGIN, SILENT_PEAK, normalise_loudness, sounding_spans
from voxtral_jax.buckets import bucket
from voxtral_jax.codec import fold
from voxtral_jax.codec.run import LEAST_FRAMES, encode_batch
from voxtral_jax.config import CodecConfig, VoxtralConfig
from voxtral_jax.errors import AudioError, CheckpointError, ConfigError, DataError
from voxtral_jax.kernels import default_kernels
from voxtral_jax.parameters import Params
from voxtral_jax.progress import followed
from voxtral_jax.training.checkpoints import run_weights
from voxtral_jax.training.data.broken import manifest_notes
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.pipeline import Batches
from voxtral_jax.training.data.recordings import at_speed, read_utterance
from voxtral_jax.training.data.shards import CodeRecord, CodeWriter, done_keys
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.envelope import read_components
from voxtral_jax.training.pitch import exact_codes
from voxtral_jax.training.settings import Count, Natural, Positive, Share
from voxtral_jax.training.sources import is_run, source_config
from voxtral_jax.training.speaking import load_codec

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Played:
    """A recording as it is encoded.

    Attributes:
        utterance: with the times and the speaker of its speed.
        samples: at the codec's rate.
        speech: whether there is voice in each frame.
        pitch: Hz at the end of each frame, where its exact codes are asked for and hold it.
    """

    utterance: Utterance
    samples: Float[np.ndarray, " S"]
    speech: Bool[np.ndarray, " T"]
    pitch: Float[np.ndarray, " T"] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """`tokenize.toml`.

    Attributes:
        codec: model or run whose codec encodes.
        manifest: of recordings with transcripts.
        out: directory of the shards; a second call goes on where the first was stopped.
        batch_size: recordings encoded side by side.
        as_references: trim silence and bring to one loudness, as inference does to a reference.
        speeds: at which each recording is played, pitch and all; every speed makes other speakers
            of the same sentences.
        exact: acoustic codes are those of the recording's envelope and pitch, which the codec was
            taught (`envelope` in `codec.toml`), not what its encoder hears.
        components: file of what it was taught; None: the run's, if `codec` is one.
        heard: beside exact codes, directory of shards of what the encoder hears of the same frames:
            `data.prompts` of speech training.
        most_broken: share of the manifest that may be broken.
        workers: processes that read, and find out where there is speech (30 s a second each); 0 is
            threads of this one, which do so one at a time.
    """

    codec: str
    manifest: str
    out: str
    batch_size: Count = 16
    as_references: bool = True
    speeds: tuple[Positive, ...] = (1.0,)
    exact: bool = False
    components: str | None = None
    heard: str | None = None
    most_broken: Share = 0.05
    workers: Natural = 0


def tokenize(settings: TokenizeSettings) -> list[str]:
    """Encodes every utterance that the shards do not have yet.

    Returns:
        What to tell: how much was encoded, and what could not be.

    Raises:
        DataError: the manifest cannot be used, or too much of it is broken.
        ConfigError: there are no exact codes of this codec, or at these speeds; two kinds of shards
            would lie in one folder.
    """
    folders = [Path(one) for one in (settings.out, settings.heard) if one is not None]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"out and heard are both {settings.out}: each needs a folder of its own")
    config = source_config(settings.codec)
    codec = encoder_of(settings.codec, config)
    components = _components(settings, config.codec)
    manifest = read_manifest(settings.manifest, need_text=True, most_broken=settings.most_broken)
    # Latents without a component hold the pitch.
    exact_pitch = components is not None and not np.any(components["basis"][-1])
    if exact_pitch:
        manifest.need_pitch(config.codec.frame_rate)
    notes = list(manifest_notes(manifest))
    index, count = jax.process_index(), jax.process_count()
    if count > 1:
        folders = [folder / f"host-{index:05d}" for folder in folders]
    done = set.intersection(*map(done_keys, folders))
    speeds = settings.speeds
    every = [(one, speed) for one in manifest.utterances for speed in speeds]
    asked = every[index::count]
    mine = [one for one in asked if at_speed(*one).key not in done]
    # Alike in length, batches have little padding.
    mine.sort(key=lambda one: at_speed(*one).seconds, reverse=True)
    failed: list[str] = []
    how = partial(_read, settings=settings, config=config.codec, exact_pitch=exact_pitch)
    with ExitStack() as opened:
        writers = [opened.enter_context(CodeWriter(folder)) for folder in folders]
        read = iter(Batches[Played | str](grain.MapDataset.source(mine).map(how), settings.workers))
        opened.callback(read.close)
        groups = iter(lambda: list(islice(read, settings.batch_size)), [])
        total = -(-len(mine) // settings.batch_size)
        for loaded in followed(groups, "batches encoded", total):
            good = [one for one in loaded if isinstance(one, Played)]
            failed += [why for why in loaded if isinstance(why, str)]
            for records in _encode(codec, config.codec, good, settings.batch_size, components):
                # Stopped between the shards of one and the other, a record may lack only one.
                for writer, record in zip(writers, records, strict=False):
                    if record.key not in writer.done:
                        writer.write(record)
    notes.append(f"{len(mine) - len(failed):,} encoded, {len(done):,} were there already")
    if failed:
        notes.append(f"{len(failed)} could not be read and are left out:")
        notes += [f"  {line}" for line in failed]
    # Of all, not of what was left to do: a second call tries the broken ones again.
    if len(failed) > settings.most_broken * len(asked):
        raise DataError(
            f"{len(failed)} of {len(asked)} recordings could not be read, more than most_broken = "
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


def _components(settings: TokenizeSettings, config: CodecConfig) -> Params | None:
    """What the acoustic latents of the codec were taught, for codes that are to be exact."""
    if not settings.exact:
        for name in ("components", "heard"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"{name} goes with exact codes: set exact=true, or leave it out")
        return None
    if settings.speeds != (1.0,):
        raise ConfigError("exact codes are of recordings as they are: leave speeds at [1.0]")
    if settings.components is not None:
        return read_components(Path(settings.components), config)
    weights = run_weights(Path(settings.codec)) if is_run(settings.codec) else {}
    found = {path[1]: leaf for path, leaf in weights.items() if path[0] == "envelope"}
    if not found:
        raise ConfigError(
            f"{settings.codec} is no run whose codec was taught envelopes (envelope.weight), so it "
            "has no exact codes; give components, or leave out exact"
        )
    return found


def _read(
    one: tuple[Utterance, float], settings: TokenizeSettings, config: CodecConfig, exact_pitch: bool
) -> Played | str:
    """A recording at a speed, or why there is none."""
    utterance, rate = at_speed(*one), config.sampling_rate
    try:
        samples = read_utterance(one[0], rate, one[1])
        pitch = np.array(utterance.pitch, np.float32) if exact_pitch else None
        if settings.as_references:
            # Pitch goes by frames, which must stay where they are.
            step = 1 if pitch is None else config.frame_samples
            samples, first = as_reference(samples, rate, step)
            if pitch is not None:
                pitch = pitch[first // config.frame_samples :]
            ends = tuple(max(0.0, round(end - first / rate, 3)) for end in utterance.phoneme_ends)
            utterance = replace(utterance, phoneme_ends=ends)
    except (AudioError, DataError) as error:
        return f"{utterance.key}: {error}"
    frames = math.ceil(len(samples) / config.frame_samples)
    speech = voice_activity(samples, rate, frames, config.frame_rate)
    return Played(utterance, samples, speech, pitch)


def as_reference(
    samples: Float[np.ndarray, " S"], rate: int, step: int = 1
) -> tuple[Float[np.ndarray, " S"], int]:
    """Trimmed and at the loudness that references are brought to, and the first sample kept.

    Args:
        samples: of a recording.
        rate: of them.
        step: the first sample kept is a multiple of this.

    Raises:
        AudioError: it is silent.
    """
    if np.abs(samples).max() < SILENT_PEAK:
        raise AudioError("the recording is silent")
    spans = sounding_spans(samples, rate)
    margin = round(MARGIN * rate)
    first, last = max(0, spans[0][0] - margin) // step * step, spans[-1][1] + margin
    return normalise_loudness(samples[first:last], rate), first


def _acoustic_codes(
    recordings: Sequence[Float[np.ndarray, " S"]],
    pitches: Sequence[Float[np.ndarray, " T"]],
    components: Params,
    config: CodecConfig,
) -> Int[np.ndarray, "rows frames A"]:
    """Exact codes of recordings side by side, with pitch if it is given; those of what follows
    their ends mean nothing."""
    longest = max(len(samples) for samples in recordings)
    frames = bucket(math.ceil(longest / config.frame_samples), LEAST_FRAMES)
    heard = np.zeros((len(recordings), frames * config.frame_samples), np.float32)
    pitch = np.zeros((len(recordings), frames), np.float32)
    for row, samples in enumerate(recordings):
        heard[row, : len(samples)] = samples
    for row, known in enumerate(pitches):
        pitch[row, : len(known)] = known[:frames]
    given = pitch if pitches else None
    return np.asarray(exact_codes(heard, given, components, config=config))


def _encode(
    codec: Params,
    config: CodecConfig,
    recordings: Sequence[Played],
    rows: int,
    components: Params | None,
) -> Iterator[tuple[CodeRecord, CodeRecord]]:
    """Of each recording its record, and the same with what the encoder hears."""
    if not recordings:
        return
    # Rows of one frame fill the batch up: one program serves all batches of a length.
    spare = [np.zeros(config.frame_samples, np.float32)] * (rows - len(recordings))
    samples = [played.samples for played in recordings] + spare
    heard = codes = encode_batch(codec, config, samples, default_kernels())
    if components is not None:
        pitches = [played.pitch for played in recordings if played.pitch is not None]
        exact = _acoustic_codes(samples, pitches, components, config)
        codes = [
            np.concatenate([made[:, :1], acoustic[: len(made)]], axis=1)
            for made, acoustic in zip(heard, exact, strict=True)
        ]
    for played, made, as_heard in zip(recordings, codes, heard, strict=False):
        one = played.utterance
        record = CodeRecord(
            key=one.key,
            codes=made,
            speech=played.speech,
            texts=one.texts,
            language=one.language,
            speaker=one.speaker,
            phoneme_ends=one.phoneme_ends,
            audio=one.audio,
            start=one.start,
            end=one.start + one.seconds,
        )
        yield record, replace(record, codes=as_heard)
