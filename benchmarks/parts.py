"""What a frame is made of: each part alone, many times in one program, against its own floor.

The floor of a part is the time to read its weights and its share of the cache once, or to do its
operations, at the rates that were measured on the device, whichever is longer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hardware import Ceilings, median_seconds

from voxtral_jax import VoxtralConfig
from voxtral_jax.codec.run import decode_chunk, decoder_stream
from voxtral_jax.decoder.generate import (
    Frame,
    Generation,
    Requests,
    append_frame,
    choose_semantic,
    frame_noise,
)
from voxtral_jax.flow import SOLVERS, FlowHead, Sampler, sample_flow, time_table
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import abstract_params, count

CODEC_FRAMES = 8
"""Frames of a codec chunk, as `synthesize` decodes them."""
TINY = 1e-6
"""What a part's output counts for in its next input: enough that nothing can be left out."""
HUGE = 1e30
"""More than any activation."""


@dataclass(frozen=True)
class Cost:
    """Bytes that must be read at least (weights whatever the batch), and operations."""

    bytes: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.operations + other.operations)

    def floor(self, ceilings: Ceilings) -> float:
        """Least seconds."""
        return max(self.bytes / ceilings.bandwidth, self.operations / ceilings.matmul)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a number: of a weight of the matrices, and of a key or value in the cache."""

    weight: int
    cache: int


def part_costs(
    config: VoxtralConfig, sampler: Sampler, batch: int, tokens: int, sizes: Sizes
) -> dict[str, Cost]:
    """Least cost of each part of one frame of `batch` sequences with `tokens` in the cache.

    Of the tables of embeddings only a few rows are read.
    """
    params = abstract_params(config, encoder=False)
    decoder = count({k: v for k, v in params["decoder"].items() if k != "mm_audio_embeddings"})
    flow = params["flow"]
    layers = count({k: v for k, v in flow.items() if k.startswith("layers")})
    small = count({k: flow[k] for k in ("input_projection", "acoustic_codebook_output")})
    condition, head = (count(flow[k]) for k in ("llm_projection", "semantic_codebook_output"))
    evaluations = sampler.steps * len(SOLVERS[sampler.solver].offsets)
    cache = 2 * config.n_layers * config.n_kv_heads * config.head_dim * tokens * batch
    attention = 4 * config.n_layers * config.n_heads * config.head_dim * tokens * batch
    # Guidance doubles the rows; of three tokens the last layer asks for one.
    share = (3 * (config.flow.n_layers - 1) + 1) / config.flow.n_layers
    return {
        "decode step": Cost(
            sizes.weight * decoder + sizes.cache * cache, 2 * batch * decoder + attention
        ),
        "flow": Cost(
            sizes.weight * (condition + evaluations * (layers + small)),
            2 * batch * (condition + evaluations * 2 * (layers * share + small)),
        ),
        "semantic head": Cost(sizes.weight * head, 2 * batch * head),
    }


@dataclass(frozen=True)
class Bench:
    """What the parts are measured with.

    Attributes:
        config: sizes.
        speaker: `{"decoder", "flow"}`.
        sampler: of the flow.
        state: after the prompt; consumed by none of them.
        requests: of its sequences.
        repeats: of a part in one program.
    """

    config: VoxtralConfig
    speaker: Any
    sampler: Sampler
    state: Generation
    requests: Requests
    repeats: int = 32

    def seconds(self, part: Callable[[Any, Any], Any], start: Any) -> float:
        """Seconds of `part(speaker, carry) -> carry`, one of many in a row on the device."""

        @partial(jax.jit, donate_argnums=1)
        def many(speaker: Any, carry: Any) -> Any:
            return jax.lax.fori_loop(0, self.repeats, lambda _, x: part(speaker, x), carry)

        kept = [jax.tree.map(jnp.copy, start)]

        def run() -> Any:
            kept[0] = many(self.speaker, kept[0])
            return kept[0]

        return median_seconds(run) / self.repeats


def measure_parts(bench: Bench) -> dict[str, float]:
    """Seconds of each part of a frame, by the names of `part_costs`."""
    config, audio, requests = bench.config, bench.config.audio, bench.requests
    rows = len(bench.state.frames)
    tokens = jnp.full((rows, audio.n_codebooks), audio.codebook_sizes[1] // 2, jnp.int32)
    nothing = jnp.zeros((rows, audio.n_acoustic_codebook))

    def decode(speaker: Any, state: Generation) -> Generation:
        # The input follows from the last output, or the compiler would compute layer 0 only once.
        frame = Frame(tokens + (state.hidden[:, :1] > HUGE), nothing)
        after = append_frame(speaker, config, state, frame, requests)
        # Every step writes the same place of the cache: the work is the same, and it never fills.
        return dataclasses.replace(
            after, lengths=state.lengths, frames=state.frames, stopped=state.stopped
        )

    def flow(speaker: Any, hidden: Any) -> Any:
        table = time_table(speaker["flow"], audio, bench.sampler, hidden.dtype)
        noise = frame_noise(requests.seeds, bench.state.frames, audio.n_acoustic_codebook)
        end, _ = sample_flow(
            speaker["flow"], audio, bench.sampler, table, hidden, noise, requests.guidance
        )
        return hidden + (TINY * jnp.mean(end)).astype(hidden.dtype)

    def head(speaker: Any, hidden: Any) -> Any:
        logits = apply(FlowHead(audio), speaker["flow"], hidden, method="semantic_logits")
        chosen = choose_semantic(logits, requests, bench.state.frames)
        return hidden + (TINY * chosen[:, None]).astype(hidden.dtype)

    return {
        "decode step": bench.seconds(decode, bench.state),
        "flow": bench.seconds(flow, bench.state.hidden),
        "semantic head": bench.seconds(head, bench.state.hidden),
    }


@dataclass(frozen=True)
class CodecBench:
    """A chunk of the codec.

    Attributes:
        codec: folded weights.
        config: sizes.
        batch: streams.
    """

    codec: Any
    config: VoxtralConfig
    batch: int

    def _arguments(self) -> tuple[Any, ...]:
        codes = np.zeros((self.batch, CODEC_FRAMES, self.config.codec.n_codebooks), np.int32)
        valid = np.full(self.batch, CODEC_FRAMES, np.int32)
        return self.codec, codes, valid, decoder_stream(self.config.codec, self.batch)

    def seconds(self) -> float:
        """Measured."""
        return median_seconds(lambda: decode_chunk(*self._arguments(), config=self.config.codec)[0])

    def cost(self) -> Cost:
        """Weights read once, and operations as the compiler counts them."""
        lowered = decode_chunk.lower(*self._arguments(), config=self.config.codec)
        counted: Any = lowered.cost_analysis()
        decoder = {k: v for k, v in self.codec.items() if k.startswith(("decoder", "output"))}
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(decoder))
        return Cost(size, float(counted["flops"]))
