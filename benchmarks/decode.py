"""Speed of generation with random weights, against what the device's memory and matmuls allow.

    python benchmarks/decode.py --params configs/nano/params.json --batch 1 --prompt 256

Prints ms per frame, real-time factor, bytes and operations per frame, and their share of the
measured ceilings; each part of a frame alone, against its own floor; writes the same as JSON with
--out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hardware import Ceilings, measure, median_seconds
from parts import CODEC_FRAMES, Bench, CodecBench, Cost, Sizes, measure_parts, part_costs
from random_model import random_params
from report import circumstances, tell

from voxtral_jax import VoxtralConfig, enable_compilation_cache
from voxtral_jax.buckets import bucket
from voxtral_jax.codec import fold
from voxtral_jax.decoder.generate import Requests, generate, prefill
from voxtral_jax.decoder.prompt import PromptBatch
from voxtral_jax.flow import SOLVERS, Sampler
from voxtral_jax.kernels import default_kernels
from voxtral_jax.model import DTYPES, computing_dtype
from voxtral_jax.serving.room import LEAST_CACHE


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("configs/nano/params.json"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of each prompt")
    parser.add_argument("--frames", type=int, default=64, help="frames generated in each run")
    parser.add_argument("--solver", default="euler", choices=sorted(SOLVERS))
    parser.add_argument("--steps", type=int, help="flow steps (default: the configuration's)")
    parser.add_argument("--kernels", help="pallas, jnp or interpret (default: by backend)")
    parser.add_argument("--dtype", choices=DTYPES, help="(default: by device)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args()

    enable_compilation_cache()
    dtype = computing_dtype(options.dtype)
    config = VoxtralConfig.load(options.params)
    steps = options.steps or config.flow.n_decoding_steps
    sampler = Sampler(options.solver, steps, options.kernels or default_kernels())
    ceilings = measure(dtype)
    params = random_params(config, options.dtype)
    result = run(config, params, sampler, ceilings, options)
    result |= circumstances() | {
        "params": str(options.params),
        "dtype": options.dtype or str(dtype),
        "batch": options.batch,
        "prompt": options.prompt,
        "frames": options.frames,
        "solver": sampler.solver,
        "steps": sampler.steps,
        "kernels": sampler.kernels,
    }
    tell(result, options.out)


def run(
    config: VoxtralConfig,
    params: Any,
    sampler: Sampler,
    ceilings: Ceilings,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Measures prefill, frames and codec of one batch."""
    batch, frames = options.batch, options.frames
    length = bucket(options.prompt + frames, LEAST_CACHE)
    random = np.random.default_rng(0)
    prompt = PromptBatch(
        jnp.asarray(random.integers(64, config.vocab_size, (batch, options.prompt)), jnp.int32),
        jnp.full(batch, options.prompt, jnp.int32),
        jnp.zeros((batch, 1, config.dim), jnp.float32),
    )
    requests = Requests(
        seeds=jnp.arange(batch, dtype=jnp.uint32),
        guidance=jnp.full(batch, 1.2, jnp.float32),
        noise_scale=jnp.ones(batch, jnp.float32),
        temperature=jnp.zeros(batch, jnp.float32),
        top_p=jnp.ones(batch, jnp.float32),
        least_frames=jnp.full(batch, frames, jnp.int32),
        most_frames=jnp.full(batch, frames, jnp.int32),
    )
    speaker = {"decoder": params["decoder"], "flow": params["flow"]}

    def start() -> Any:
        return prefill(speaker, prompt, config=config, cache_length=length, most_frames=frames)[0]

    times = []
    for _ in range(options.repeats + 1):
        state = jax.block_until_ready(start())
        begun = time.perf_counter()
        state = jax.block_until_ready(
            generate(speaker, state, requests, frames, config=config, sampler=sampler)
        )
        times.append((time.perf_counter() - begun) / frames)
    assert int(state.frames.min()) == frames, "every sequence must run its full length"
    frame = float(np.median(times[1:]))

    chunk = CodecBench(fold(params["codec"], config.codec), config, batch).seconds()
    kept = params["decoder"]["layers_0"]["attention"]["wq"]["weight"].dtype.itemsize
    sizes = Sizes(weight=kept, cache=state.cache.keys[0].dtype.itemsize)
    costs = part_costs(config, sampler, batch, options.prompt + frames // 2, sizes)
    parts = measure_parts(Bench(config, speaker, sampler, start(), requests))
    cost = sum(costs.values(), Cost())
    floor = cost.floor(ceilings)
    frame_rate = config.codec.frame_rate
    total = frame + chunk / CODEC_FRAMES
    return {
        "ms_per_frame": 1e3 * frame,
        "floor_ms_per_frame": 1e3 * floor,
        "time_over_floor": frame / floor,
        "codec_ms_per_frame": 1e3 * chunk / CODEC_FRAMES,
        "real_time_factor": total * frame_rate,
        "audio_seconds_per_second": batch / (total * frame_rate),
        "prefill_ms": 1e3 * median_seconds(start, options.repeats),
        "bytes_per_frame": cost.bytes,
        "operations_per_frame": cost.operations,
        "bandwidth": ceilings.bandwidth,
        "share_of_bandwidth": cost.bytes / frame / ceilings.bandwidth,
        "matmul_rate": ceilings.matmul,
        "share_of_matmul_rate": cost.operations / frame / ceilings.matmul,
        "parts": {
            name: {
                "ms": 1e3 * parts[name],
                "floor_ms": 1e3 * costs[name].floor(ceilings),
                "time_over_floor": parts[name] / costs[name].floor(ceilings),
            }
            for name in parts
        },
    }


if __name__ == "__main__":
    main()
