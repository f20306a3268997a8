"""`train.py redraw`: codes as a speech model draws them, each frame after the recording's own.

A decoder that learned from a codec's codes has never met those of a speech model, which are less
sharp. As vocoders learn from the spectra that a model predicts with the recording's as past, it can
learn from these: they are of the same frames, so the recording is still what it should give back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from rich.progress import track

from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import ConfigError
from voxtral_jax.flow import Sampler, sample_flow, time_table
from voxtral_jax.kernels import default_kernels
from voxtral_jax.parameters import Params, unflatten
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.data.plan import PackingSettings, Plan
from voxtral_jax.training.data.shards import CodeEntry, CodeSource, CodeWriter, done_keys
from voxtral_jax.training.data.speech import PackedRows
from voxtral_jax.training.settings import Count, Natural
from voxtral_jax.training.sources import source_config, source_weights
from voxtral_jax.training.speaking import PARTS, stage_tokenizer
from voxtral_jax.training.speech import target_states
from voxtral_jax.utterance import Options


@dataclass(frozen=True, kw_only=True)
class RedrawSettings:
    """`redraw.toml`.

    Attributes:
        speech: model or run whose decoder and flow draw.
        codes: directory of code shards with texts; semantic codes stay as they are.
        prompts: another one, of the same recordings or some of them, which voice prompts are taken
            from.
        out: directory of the shards; a second call goes on where the first was stopped.
        tokenizer: directory with `tekken.json`, for models that need one; `speech` otherwise.
        packing: how sequences are made and packed.
        batch_size: packed rows that are drawn side by side.
        guidance, noise_scale, steps: of the flow; the model's own by default.
        seed: of voice prompts and noise.
    """

    speech: str
    codes: str
    prompts: str | None = None
    out: str
    tokenizer: str | None = None
    packing: PackingSettings
    batch_size: Count = 12
    guidance: float | None = None
    noise_scale: float | None = None
    steps: Count | None = None
    seed: Natural = 0


def redraw(settings: RedrawSettings) -> list[str]:
    """Draws the acoustic codes of every record that the shards do not have yet.

    Returns:
        What to tell: how many were drawn.

    Raises:
        ConfigError, DataError, CheckpointError, RequestError: something named cannot be used.
    """
    if Path(settings.out) in (Path(settings.codes), Path(settings.prompts or settings.codes)):
        raise ConfigError(f"{settings.out} is what is read: out needs a folder of its own")
    Options(guidance=settings.guidance, noise_scale=settings.noise_scale)
    config = source_config(settings.speech)
    source = CodeSource(settings.codes)
    rows = PackedRows(
        source,
        stage_tokenizer(config, settings.tokenizer or settings.speech),
        config,
        settings.packing,
        settings.seed,
        None if settings.prompts is None else CodeSource(settings.prompts),
    )
    plan = rows.plan(0)
    out = Path(settings.out)
    index, count = jax.process_index(), jax.process_count()
    if count > 1:
        out /= f"host-{index:05d}"
    done = done_keys(out)
    missing = [
        row
        for row in range(plan.rows)[index::count]
        if any(source.entries[number].key not in done for number, _ in _frames(plan, source, row))
    ]
    weights = unflatten(dict(source_weights(settings.speech, config, PARTS)))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
    sampler = Sampler(
        steps=settings.steps or config.flow.n_decoding_steps, kernels=default_kernels()
    )
    guidance = config.guidance if settings.guidance is None else settings.guidance
    noise_scale = config.noise_scale if settings.noise_scale is None else settings.noise_scale
    size, drawn = settings.batch_size, 0
    batches = [missing[i : i + size] for i in range(0, len(missing), size)]
    with CodeWriter(out) as writer:
        for numbers in track(batches, "drawing"):
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(settings.seed)))(
                jnp.array(numbers + [0] * (size - len(numbers)))
            )
            codes = draw_codes(
                params,
                rows.batch([*numbers, *[None] * (size - len(numbers))]),
                keys,
                guidance,
                noise_scale,
                config=config,
                sampler=sampler,
            )
            for row, made in zip(numbers, np.asarray(codes), strict=False):
                for number, frames in _frames(plan, source, row):
                    record = source[number]
                    if record.key not in writer.done:
                        both = np.concatenate([record.codes[:, :1], made[frames]], axis=1)
                        writer.write(replace(record, codes=both))
                        drawn += 1
    return [
        f"{drawn:,} drawn of {len(source):,}, {len(done):,} were there already",
        *(f"{len(keys):,} left out, {reason}" for reason, keys in plan.left_out.items()),
    ]


def _frames(plan: Plan, source: CodeSource, row: int) -> Iterator[tuple[int, slice]]:
    """The records that a row speaks, and where their frames are among its targets."""
    place = 0
    for number in plan.targets[plan.bounds[row] : plan.bounds[row + 1]]:
        entry: CodeEntry = source.entries[number]
        yield int(number), slice(place, place + entry.frames)
        place += entry.frames + 1  # [END_AUDIO]


@partial(jax.jit, static_argnames=("config", "sampler"))
def draw_codes(
    params: Params,
    batch: SpeechBatch,
    keys: Array,
    guidance: Array,
    noise_scale: Array,
    *,
    config: VoxtralConfig,
    sampler: Sampler,
) -> Int[Array, "B M A"]:
    """Acoustic codes (no offset) of all targets, each drawn after those before it in the batch.

    Args:
        params: `{"decoder", "flow"}`.
        batch: packed rows.
        keys: `[B]`, of each row's noise.
        guidance, noise_scale: of the flow.
    """
    hidden, _ = target_states(params, config, batch, "all")
    places = hidden.shape[:2]
    shape = (places[1], config.audio.n_acoustic_codebook)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    _, codes = sample_flow(
        params["flow"],
        config.audio,
        sampler,
        time_table(params["flow"], config.audio, sampler, hidden.dtype),
        hidden.reshape(-1, hidden.shape[-1]),
        noise_scale * noise.reshape(-1, shape[1]),
        jnp.full(places[0] * places[1], guidance),
    )
    return codes.reshape(*places, -1)
