"""`train.py speech`: the decoder and the flow on code shards, whole or by low-rank adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from voxtral_jax.adapter import add_adapters, is_adapter, merge_adapters
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import ConfigError
from voxtral_jax.parameters import Params
from voxtral_jax.sharding import Rules
from voxtral_jax.synthesis import synthesize
from voxtral_jax.text import Tokenizer
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.data.plan import PackingSettings
from voxtral_jax.training.data.shards import CodeSource
from voxtral_jax.training.data.speech import (
    SpeechBatches,
    empty_rows,
    speech_batches,
    validation_speech,
)
from voxtral_jax.training.distributed import fetch
from voxtral_jax.training.logs import Validation
from voxtral_jax.training.settings import (
    CheckpointSettings,
    Count,
    GuardSettings,
    LogSettings,
    MeshSettings,
    Natural,
    OptimizerSettings,
    RunSettings,
)
from voxtral_jax.training.sources import (
    silent_layers,
    source_config,
    source_weights,
    whole_weights,
)
from voxtral_jax.training.speaking import (
    PARTS,
    assemble,
    load_codec,
    model_params,
    prompts_of,
    stage_tokenizer,
    voice_of,
)
from voxtral_jax.training.speech import (
    CONSTANTS,
    SpeechLosses,
    check_latent_weights,
    is_text_embedding,
    speech_loss,
)
from voxtral_jax.training.state import Path, gradients_of
from voxtral_jax.training.task import Task


@dataclass(frozen=True, kw_only=True)
class SpeechData:
    """What the speech model is trained on.

    Attributes:
        codes: directory of code shards (`train.py tokenize`).
        prompts: another one, of the same recordings or some of them, which voice prompts are taken
            from: where `codes` are exact, cloning still has those of the encoder.
        validation: another one.
        batch_size: packed rows in a step, over all devices.
        packing: how sequences are made and packed.
        workers: processes that make batches; 0 is threads of this one.
    """

    codes: str
    prompts: str | None = None
    validation: str | None = None
    batch_size: Count
    packing: PackingSettings
    workers: Natural = 0


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters in place of training all weights.

    Attributes:
        rank: of the adapters.
        pattern: regular expression of the checkpoint keys of the linear maps that get one.
    """

    rank: Count
    pattern: str = r"layers\."


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """`speech.toml`.

    Attributes:
        params: `params.json` with the sizes, or a directory that has one.
        start: model or run to start from: what it has of decoder and flow is taken, the rest is
            random, but layers beyond its own add nothing at first. A released checkpoint, or a text
            model of Mistral's in the same key layout.
        codec: model or run whose codec speaks the validation samples.
        tokenizer: directory with `tekken.json`, for models that need one; `start` otherwise.
        lora: train adapters only; `start` must have all weights.
    """

    params: str
    start: str | None = None
    codec: str | None = None
    tokenizer: str | None = None
    run: RunSettings
    data: SpeechData
    optimizer: OptimizerSettings
    losses: SpeechLosses = SpeechLosses()
    lora: LoraSettings | None = None
    mesh: MeshSettings = MeshSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LogSettings = LogSettings()
    guard: GuardSettings = GuardSettings()


def speech_task(settings: SpeechSettings, *, read_data: bool = True) -> Task:
    """Reads the index of the code shards and puts the stage together.

    Args:
        read_data: False is for accounts of cost: the data need not be there.

    Raises:
        ConfigError, DataError, CheckpointError: something that it names cannot be used.
    """
    config, data, lora = source_config(settings.params), settings.data, settings.lora
    if lora is not None and settings.start is None:
        raise ConfigError("lora needs start, the model to adapt")
    guided = settings.losses.guided
    if bool(guided) != (settings.losses.attention > 0):
        raise ConfigError("losses.attention and losses.guided go together: weight, and layers")
    if any(not 0 <= layer < config.n_layers for layer in guided):
        raise ConfigError(
            f"losses.guided = {list(guided)}, but the layers are 0 to {config.n_layers - 1}"
        )
    check_latent_weights(settings.losses.latent_weights, config)
    made: SpeechBatches | None = None
    validate = None
    if read_data:
        tokenizer = stage_tokenizer(config, settings.tokenizer or settings.start)
        made = speech_batches(
            CodeSource(data.codes),
            tokenizer,
            config,
            data.packing,
            batch_size=data.batch_size,
            seed=settings.run.seed,
            prompts=None if data.prompts is None else CodeSource(data.prompts),
            workers=data.workers,
            process=(jax.process_index(), jax.process_count()),
        )
        if data.validation is not None:
            validate = _validation(settings, config, tokenizer)

    def init(key: jax.Array) -> Params:
        for_model, for_adapters = jax.random.split(key)
        params = model_params(config, for_model)
        if lora is None:
            return params
        # What is frozen needs no more bits than it was published with.
        frozen = jax.tree.map(lambda leaf: leaf.astype(settings.losses.dtype), params)
        return add_adapters(frozen, lora.pattern, lora.rank, for_adapters)

    def trained(path: Path) -> bool:
        if lora is not None:
            return is_adapter(path)
        frozen = settings.losses.freeze_text and is_text_embedding(path)
        return path[-1] not in CONSTANTS and not frozen

    def start(rules: Rules) -> Mapping[Path, Any]:
        if settings.start is None:
            return {}
        if lora is not None:
            return whole_weights(settings.start, config, PARTS, rules)
        found = source_weights(settings.start, config, PARTS, rules)
        return {**found, **silent_layers(config, found)}

    loss = partial(speech_loss, config, settings.losses)
    return Task(
        config=config,
        init=init,
        start=start,
        trained=trained,
        loss=lambda keep: partial(loss, keep),
        gradients=lambda keep: gradients_of(partial(loss, keep)),
        batch_size=data.batch_size,
        batches=lambda: dataset_of(made),
        batches_per_pass=made.per_pass if made else 1,
        example=lambda: empty_rows(config, data.packing, data.batch_size),
        audio_seconds=lambda batch: float(
            (batch.semantic_weights > 0).sum() / config.codec.frame_rate
        ),
        validate=validate,
        restarted=lambda path: lora is not None,
        about={
            "stage": "speech",
            "params": config.to_dict(),
            "lora": None if lora is None else dataclasses.asdict(lora),
            "start": settings.start,
        },
        notes=made.notes if made else (),
    )


def dataset_of(made: SpeechBatches | None) -> grain.IterDataset[SpeechBatch]:
    """The batches of a task that was made with its data."""
    assert made is not None, "a task made with read_data=False has no data"
    return made.dataset


@partial(jax.jit, static_argnames=("config", "settings"))
def _losses(
    params: Params,
    batch: SpeechBatch,
    key: jax.Array,
    *,
    config: VoxtralConfig,
    settings: SpeechLosses,
) -> dict[str, Array]:
    quiet = dataclasses.replace(settings, condition_dropout=0.0, frame_dropout=0.0)
    loss, metrics = speech_loss(
        config, quiet, "all", params, {}, batch, key, jnp.zeros((), jnp.int32)
    )
    return metrics | {"loss": loss}


def _validation(
    settings: SpeechSettings, config: VoxtralConfig, tokenizer: Tokenizer
) -> Callable[[Params], Validation]:
    data = settings.data
    assert data.validation is not None
    source = CodeSource(data.validation)
    batches = list(
        validation_speech(source, tokenizer, config, data.packing, batch_size=data.batch_size)
    )
    codec = None if settings.codec is None else load_codec(settings.codec, config)
    prompts = prompts_of(source, settings.logging.samples if codec else 0)

    def validate(weights: Params) -> Validation:
        found: list[dict[str, float]] = []
        shares = []
        for number, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(settings.run.seed), number)
            values = _losses(weights, batch, key, config=config, settings=settings.losses)
            found.append({name: float(value) for name, value in fetch(values).items()})
            shares.append(float(batch.semantic_weights.sum()))
        metrics = {
            name: float(np.average([one[name] for one in found], weights=shares))
            for name in found[0]
        }
        if codec is None or not prompts:
            return Validation(metrics)
        model = assemble(config, merge_adapters(fetch(weights)), codec, tokenizer)
        names = [prompt.name for prompt in prompts]
        spoken = synthesize(
            model,
            [prompt.text for prompt in prompts],
            voice=[voice_of(model, prompt) for prompt in prompts],
            language=[prompt.language or None for prompt in prompts],
        )
        metrics["seconds"] = float(np.mean([speech.seconds for speech in spoken]))
        metrics["unfinished"] = float(np.mean([s.finish_reason != "stop" for s in spoken]))
        return Validation(
            metrics,
            {name: speech.samples for name, speech in zip(names, spoken, strict=True)},
            model.sample_rate,
            {name: speech.codes for name, speech in zip(names, spoken, strict=True)},
        )

    return validate
