"""Learns to find in codes what they leave out, as far as it follows from them.

    python scripts/corpus/detail.py "corpus/locked/lines-*.jsonl" corpus/detail.safetensors
    python scripts/corpus/lock.py data/nano/train corpus/told --detail corpus/detail.safetensors

From recordings, the spectra that WORLD finds in them, and the codes that they have exactly: goals
that a decoder can know, where those of `lock.py` alone have detail that no code names. At first it
finds the median of what may be, then what is likely (`likely.py`). The manifest
is one of `lock.py`. A step takes 0.4 s on a core, so all of them 1.5 h, beside what WORLD takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float
from likely import STEPS as LIKELY
from likely import make_likely
from safetensors.numpy import save_file
from telling import (
    COMPONENTS,
    PARAMS,
    Detail,
    ahead,
    distance,
    find,
    latents_of,
    silence_after,
    spectra_of,
    with_context,
)
from vocoder import FRAME, RATE
from world import find_pitch, find_power

from voxtral_jax.config import CodecConfig, VoxtralConfig
from voxtral_jax.files import replacing
from voxtral_jax.parameters import Params
from voxtral_jax.progress import followed
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.recordings import read_utterance
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.envelope import read_components

BATCH, STEPS, LEARNING_RATE = 1024, 12_000, 1e-3
"""Frames in a step; the rate falls as a cosine."""
FIRST, RIDGE = 40 * BATCH, 10.0
"""Frames that the linear part starts from at least squares, and what keeps it small."""


def heard(
    one: Utterance,
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, "T spectra bands"], Bool[np.ndarray, "T N"]]:
    """A recording, the spectra (float16) of its frames and which of them have a voice."""
    samples = read_utterance(one, RATE)
    padded = np.pad(samples, (0, -len(samples) % FRAME))
    pitch = find_pitch(padded)
    spectra = spectra_of(find_power(padded, pitch))
    return samples, ahead(spectra).astype(np.float16), ahead(pitch > 0)


def gather(
    utterances: Sequence[Utterance], config: CodecConfig, components: Params, workers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Latents with those before (float16), spectra (float16) and voices of all frames; how many
    frames each recording has."""
    latents: list[np.ndarray] = []
    spectra: list[np.ndarray] = []
    voiced: list[np.ndarray] = []
    # Threads of JAX do not outlive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        found = pool.map(heard, utterances, chunksize=8)
        for one, (samples, found_spectra, found_voiced) in zip(
            utterances, followed(found, "recordings heard", len(utterances)), strict=True
        ):
            frames = len(found_spectra)
            # The manifest may have one frame more or less.
            ends = np.asarray((*one.pitch, 0.0)[:frames])
            made = latents_of(samples, silence_after(ends), config, components)[:frames]
            latents.append(made.astype(np.float16))
            spectra.append(found_spectra)
            voiced.append(found_voiced)
    lengths = [len(one) for one in latents]
    every = with_context(np.concatenate(latents), lengths)
    return every, np.concatenate(spectra), np.concatenate(voiced), lengths


def least_squares(
    latents: Float[np.ndarray, "N A"], spectra: Float[np.ndarray, "N spectra bands"]
) -> Params:
    """Kernel and bias that find spectra in the latents of their frame alone."""
    known = np.pad(latents.astype(np.float32), ((0, 0), (0, 1)), constant_values=1)
    wanted = spectra.reshape(len(spectra), -1).astype(np.float32)
    found = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ wanted)
    return {"kernel": jnp.asarray(found[:-1]), "bias": jnp.asarray(found[-1])}


def learn(
    latents: np.ndarray, spectra: np.ndarray, voiced: np.ndarray, steps: int, seed: int = 0
) -> tuple[Params, float]:
    """Parameters of `Detail` learned from all frames, and the mean distance of the last tenth."""
    rows = np.random.default_rng(seed)
    params = Detail().init(jax.random.key(seed), jnp.zeros((1, *latents.shape[1:])))["params"]
    some = rows.choice(len(spectra), min(len(spectra), FIRST), replace=False)
    params["plain"] = least_squares(latents[some, -1], spectra[some])
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    def loss(params: Params, latents: Array, *truth: Array) -> tuple[Array, Array]:
        return distance(find(params, latents), *truth)

    @jax.jit
    def step(params: Params, state: optax.OptState, *batch: Array) -> tuple[Any, ...]:
        (_, apart), gradient = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), state, apart

    state, distances = optimizer.init(params), []
    for _ in followed(range(steps), "steps", steps):
        at = rows.integers(0, len(spectra), BATCH)
        batch = (x[at].astype(np.float32) for x in (latents, spectra, voiced))
        params, state, apart = step(params, state, *batch)
        distances.append(float(apart))
    return params, float(np.mean(distances[-max(1, steps // 10) :]))


def main(
    manifest: Annotated[str, typer.Argument(help="of lock.py; a pattern of several")],
    out: Annotated[Path, typer.Argument(help="file to write")],
    params: Annotated[Path, typer.Option(help="sizes of the model")] = PARAMS,
    components: Annotated[Path, typer.Option(help="of its codec's latents")] = COMPONENTS,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    steps: Annotated[int, typer.Option(min=1)] = STEPS,
    likely_steps: Annotated[int, typer.Option(min=1, help="with a critic, after those")] = LIKELY,
) -> None:
    """Learns from all recordings, and writes one file."""
    config = VoxtralConfig.load(params).codec
    basis = read_components(components, config)
    found = read_manifest(manifest, need_text=False)
    found.need_pitch(config.frame_rate)
    latents, spectra, voiced, lengths = gather(found.utterances, config, basis, workers)
    median, apart = learn(latents, spectra, voiced, steps)
    learned = make_likely(median, latents, spectra, voiced, lengths, likely_steps)
    network = flatten_dict({"network": learned}, sep=".")
    with replacing(out) as temporary:
        save_file(basis | {name: np.asarray(x) for name, x in network.items()}, temporary)
    print(f"{out}: spectra were {20 * apart:.2f} dB from WORLD's before they were made likely")


if __name__ == "__main__":
    typer.run(main)
