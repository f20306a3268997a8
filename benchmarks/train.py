"""Speed of training steps on random data, against what the device's matmuls allow.

    python benchmarks/train.py codec --config configs/nano/codec.toml
    python benchmarks/train.py speech --config configs/voxtral-4b/speech.toml --layers 4 \\
        data.batch_size=1 mesh.fsdp=1

Prints steps and audio seconds per second, operations per step, and their share of the measured
matmul rate (MFU); writes the same as JSON with --out. Data loading is not part of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hardware import measure
from report import circumstances, tell

from voxtral_jax import enable_compilation_cache
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.parameters import count
from voxtral_jax.training import stages
from voxtral_jax.training.costs import step_operations
from voxtral_jax.training.data.batches import CropBatch, SpeechBatch
from voxtral_jax.training.loop import compile_step
from voxtral_jax.training.settings import load_settings
from voxtral_jax.training.task import abstract_state, first_state, make_rules, place_batch

TARGET_SHARE = 0.6
"""Of a packed row's tokens that are target frames, as with 10 s sentences and 6 s prompts."""


def random_batch(batch: Any, config: VoxtralConfig) -> Any:
    """A full batch in the shapes of `batch`: noise, or one long sequence a row."""
    random = np.random.default_rng(0)
    if isinstance(batch, CropBatch):
        samples = 0.1 * random.standard_normal(batch.samples.shape)
        lengths = np.full(batch.lengths.shape, batch.samples.shape[1], np.int32)
        return dataclasses.replace(batch, samples=samples.astype(np.float32), lengths=lengths)
    assert isinstance(batch, SpeechBatch)
    rows, tokens = batch.ids.shape
    targets = min(batch.targets.shape[1], int(TARGET_SHARE * tokens))
    codes = random.integers(2, config.audio.codebook_sizes[1], batch.tokens.shape)
    audio = np.zeros((rows, tokens), bool)
    audio[:, tokens - targets :] = True
    weights = np.zeros(batch.semantic_weights.shape, np.float32)
    weights[:, :targets] = 1
    places = np.zeros(batch.places.shape, np.int32)
    places[:, :targets] = np.arange(tokens - targets - 1, tokens - 1)
    return SpeechBatch(
        ids=np.where(audio, config.audio.audio_token_id, 100).astype(np.int32),
        audio=audio,
        tokens=(codes * audio[..., None]).astype(np.int16),
        segments=np.ones((rows, tokens), np.int32),
        positions=np.broadcast_to(np.arange(tokens, dtype=np.int32), (rows, tokens)).copy(),
        places=places,
        targets=random.integers(2, config.audio.codebook_sizes[1], batch.targets.shape).astype(
            np.int16
        ),
        heard=np.full((*places.shape, 2), -1, np.int32),
        semantic_weights=weights,
        flow_weights=weights,
    )


def audio_seconds(batch: Any, config: VoxtralConfig) -> float:
    """Target audio in a batch."""
    if isinstance(batch, CropBatch):
        return float(batch.lengths.sum()) / config.codec.sampling_rate
    return float(batch.semantic_weights.sum()) / config.codec.frame_rate


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["codec", "speech"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="decoder layers (default: the configuration's)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options, overrides = parser.parse_known_args()
    enable_compilation_cache()
    settings: Any = load_settings(stages.SETTINGS[options.stage], options.config, overrides)
    if options.layers is not None:
        settings = with_layers(settings, options.layers)
    # Nothing is loaded: weights are random.
    settings = dataclasses.replace(settings, start=None)
    task = stages.TASKS[options.stage](settings, read_data=False)
    rules = make_rules(task.config, settings.mesh, task.batch_size)
    optimizer = task.optimizer(settings)
    abstract = abstract_state(task, settings, optimizer, rules)
    state = first_state(task, settings, optimizer, rules, abstract)
    local = random_batch(task.example(), task.config)
    batch = place_batch(local, rules)

    begun = time.perf_counter()
    step = compile_step(task, settings, optimizer, state, batch)
    state, metrics = jax.block_until_ready(step(state, batch))
    compiling = time.perf_counter() - begun
    times = []
    for _ in range(options.steps):
        begun = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - begun)
    assert np.isfinite(float(metrics["loss"])), "the loss must stay finite"
    seconds = float(np.median(times))
    operations = step_operations(task, state, batch) or float("nan")
    gpu = jax.default_backend() == "gpu"
    half = options.stage == "speech" and settings.losses.dtype == "bfloat16"
    ceiling = measure(jax.numpy.dtype("bfloat16" if half else "float32")).matmul
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use") if gpu else None
    result = {
        "stage": options.stage,
        "config": str(options.config),
        "overrides": overrides,
        "layers": options.layers or task.config.n_layers,
        "parameters": count(state.params),
        "seconds_per_step": seconds,
        "steps_per_second": 1 / seconds,
        "audio_seconds_per_second": audio_seconds(local, task.config) / seconds,
        "operations_per_step": operations,
        "matmul_rate": ceiling,
        "mfu": operations / seconds / ceiling / jax.device_count(),
        "peak_memory_bytes": memory,
        "first_step_seconds": compiling,
        "devices": jax.device_count(),
        **circumstances(),
    }
    tell(result, options.out)


def with_layers(settings: Any, layers: int) -> Any:
    """The same stage for a decoder with another number of layers."""
    config = VoxtralConfig.load(settings.params)
    folder = tempfile.mkdtemp()
    path = Path(folder) / "params.json"
    dataclasses.replace(config, n_layers=layers).save(path)
    return dataclasses.replace(settings, params=str(path))


if __name__ == "__main__":
    main()
