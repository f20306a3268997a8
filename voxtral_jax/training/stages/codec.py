"""`train.py codec`: its data, where it starts, and what it learns."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

import grain
import jax
import numpy as np

from voxtral_jax.codec import encoder_names
from voxtral_jax.config import CodecConfig
from voxtral_jax.errors import DataError
from voxtral_jax.sharding import Rules
from voxtral_jax.training.codec import codec_gradients, codec_loss
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.broken import Unreadable, manifest_notes
from voxtral_jax.training.data.crops import crop_batches
from voxtral_jax.training.data.manifest import Manifest, read_manifest
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.discriminator import Discriminators
from voxtral_jax.training.distillation import make_distillation
from voxtral_jax.training.encoding import encoder_loss
from voxtral_jax.training.envelope import find_components, read_components
from voxtral_jax.training.filterbank import FIRST, filter_weights
from voxtral_jax.training.recipe import FILTERS, CodecTraining
from voxtral_jax.training.reconstruction import codec_validation
from voxtral_jax.training.sources import (
    check_codec,
    silent_layers,
    source_config,
    source_weights,
)
from voxtral_jax.training.stages.codec_settings import (
    CodecSettings,
    check_together,
    envelope_latents,
)
from voxtral_jax.training.state import Path, gradients_of
from voxtral_jax.training.task import Task

NOBODY = Utterance(key="", audio="", texts=(), language="", speaker="")
"""Whose targets have the right shapes, and say nothing."""


def codec_task(settings: CodecSettings, *, read_data: bool = True) -> Task:
    """Reads the manifests and puts the stage together.

    Args:
        read_data: False is for accounts of cost: the data need not be there.

    Raises:
        ConfigError, DataError, CheckpointError: something that it names cannot be used.
    """
    config = source_config(settings.params)
    codec, data = config.codec, settings.data
    crop = frames_of(codec, data.crop_seconds) * codec.frame_samples
    distillation, critics = settings.distillation, settings.discriminators
    check_together(settings, codec)

    characters = distillation.kind == "characters"
    manifest = (
        _recordings(settings, data.manifest, codec.frame_rate, need_text=characters)
        if read_data
        else Manifest((), ())
    )
    timed = any(one.phoneme_ends for one in manifest.utterances)
    if distillation.kind == "phonemes" and read_data and not timed:
        raise DataError(
            f"no utterance of {data.manifest} has 'phoneme_ends', which distillation.kind = "
            '"phonemes" teaches: choose another, such as "characters"'
        )
    training = CodecTraining(
        config=codec,
        losses=settings.losses,
        quantizer=settings.quantizer,
        discriminators=(
            Discriminators(critics.channels, critics.windows, critics.kind)
            if settings.part != "encoder"
            and (settings.losses.feature_matching > 0 or settings.losses.adversarial > 0)
            else None
        ),
        distillation=make_distillation(
            distillation.kind,
            distillation.targets,
            codec.frame_samples,
            codec.frame_rate,
            crop // codec.frame_samples,
            read=read_data,
        ),
        envelope=settings.envelope,
        part=settings.part,
    )
    alone = settings.part == "encoder"
    loss = encoder_loss if alone else codec_loss
    unreadable = Unreadable(manifest, data.most_broken)
    validation = None
    if data.validation and read_data:
        validation = codec_validation(
            training,
            _recordings(settings, data.validation, codec.frame_rate, need_text=False),
            frames_of(codec, data.validation_seconds) * codec.frame_samples,
            settings.logging.samples,
        )

    def batches(process: tuple[int, int]) -> grain.IterDataset[CropBatch]:
        return crop_batches(
            manifest,
            rate=codec.sampling_rate,
            crop_samples=crop,
            frame_samples=codec.frame_samples,
            batch_size=data.batch_size,
            seed=settings.run.seed,
            targets=training.distillation.targets,
            workers=data.workers,
            process=process,
        )

    def start(rules: Rules) -> Mapping[Path, Any]:
        loaded: dict[Path, Any] = {}
        encoder = encoder_names(codec)
        if settings.start is not None:
            loaded |= source_weights(settings.start, config, ["codec"], rules)
            if training.keeps_codes:
                check_codec(settings.start, config, {*encoder, "quantizer"}, loaded)
            loaded |= silent_layers(config, loaded)
        if training.anchored:
            anchor = {path: leaf for path, leaf in loaded.items() if path[1] in encoder}
            loaded |= {("anchor", *path[1:]): leaf for path, leaf in anchor.items()}
        if settings.envelope.anew:
            loaded = {path: leaf for path, leaf in loaded.items() if path[:2] != ("codec", FIRST)}
        if settings.envelope.fixed_filters:
            filters = filter_weights(codec)
            loaded |= {path: filters[path[-1]] for path in loaded if path[:2] == FILTERS}
        if settings.envelope.used:
            if settings.envelope.components is not None:
                found = read_components(FilePath(settings.envelope.components), codec)
            else:
                # All of them in every process, so that all find the same.
                count = -(-settings.envelope.crops // data.batch_size)
                latents = envelope_latents(settings.envelope, codec)
                found = find_components(islice(batches((0, 1)), count), codec, latents)
            loaded |= {("envelope", name): leaf for name, leaf in found.items()}
        return loaded

    return Task(
        config=config,
        init=training.init,
        start=start,
        trained=training.trained,
        loss=lambda keep: partial(loss, training, keep),
        gradients=lambda keep: (
            gradients_of(partial(loss, training, keep))
            if alone
            else partial(codec_gradients, training, keep)
        ),
        batch_size=data.batch_size,
        batches=lambda: batches((jax.process_index(), jax.process_count())),
        batches_per_pass=max(1, len(manifest.utterances) // data.batch_size),
        audio_seconds=lambda batch: float(batch.lengths.sum()) / codec.sampling_rate,
        inspect=unreadable.inspect,
        example=lambda: example_batch(training, data.batch_size, crop, manifest),
        validate=validation,
        critic=critics.optimizer if training.discriminators else None,
        about={"stage": "codec", "params": config.to_dict()},
        notes=manifest_notes(manifest) if read_data else (),
    )


def _recordings(
    settings: CodecSettings, path: str, frame_rate: float, *, need_text: bool
) -> Manifest:
    """A manifest of what the settings ask for, to train on or to validate with."""
    found = read_manifest(path, need_text=need_text, most_broken=settings.data.most_broken)
    if settings.envelope.pitch > 0:
        found.need_pitch(frame_rate)
    return found


def frames_of(config: CodecConfig, seconds: float) -> int:
    """Whole codec frames in so many seconds, at least one."""
    return max(1, round(seconds * config.frame_rate))


def example_batch(
    training: CodecTraining, batch_size: int, crop: int, manifest: Manifest
) -> CropBatch:
    """A batch of zeros in the shapes that the stage trains on."""
    one = training.distillation.targets(NOBODY, 0, 0, False)
    silence = np.zeros((batch_size, crop), np.float32)
    # Accounts of cost have no manifest that would know.
    has_pitch = manifest.has_pitch or training.envelope.pitch > 0
    return CropBatch(
        samples=silence,
        lengths=np.zeros(batch_size, np.int32),
        utterances=np.zeros(batch_size, np.int32),
        targets={name: np.zeros((batch_size, *np.shape(x)), x.dtype) for name, x in one.items()},
        goals=silence if manifest.has_goals else None,
        pitch=silence[:, :: training.config.frame_samples] if has_pitch else None,
    )
