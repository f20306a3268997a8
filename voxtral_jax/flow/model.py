"""The two heads on the decoder's hidden state: semantic logits and the flow's velocity network.

Checkpoint keys: `acoustic_transformer.*`. The network sees a sequence of three vectors: the state
x, the time and the condition. All that does not depend on x is made apart, to be computed once.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from voxtral_jax.config import END_AUDIO, AudioModelConfig
from voxtral_jax.nn.linear import Linear, RMSNorm
from voxtral_jax.nn.module import declare, rematerialised
from voxtral_jax.nn.transformer import LayerConfig, TransformerLayer

MASKED = -1e30
"""Logit of an entry that cannot be chosen."""
TIME_THETA = 10_000.0
"""Base of the time sinusoid's frequencies."""


def time_frequencies(dim: int) -> Float[Array, " half"]:
    """Frequencies of the time sinusoid, for a network of width `dim`; float32."""
    half = dim // 2
    return TIME_THETA ** (-jnp.arange(half, dtype=jnp.float32) / half)


class TimeEmbedding(nn.Module):
    """Sinusoid of the time: cosines, then sines, float32.

    The frequencies are constants, yet the checkpoint's own (`time_embedding.inv_freq`, rounded to
    bfloat16) are what the released weights were trained with.
    """

    dim: int

    @nn.compact
    def __call__(self, t: Float[Array, " N"]) -> Float[Array, "N dim"]:
        frequency = declare(
            self, "inv_freq", lambda _, shape: time_frequencies(2 * shape[0]), (self.dim // 2,)
        )
        angle = t[:, None] * frequency.astype(jnp.float32)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def _attend_all(q: Array, k: Array, v: Array, queries: int) -> tuple[Array, None]:
    """Attention of the first queries to everything."""
    return jax.nn.dot_product_attention(q[:, :queries], k, v), None


class FlowHead(nn.Module):
    """Semantic head and velocity network.

    Attributes:
        config: sizes.
        remat: what training keeps of each layer for the backward pass (`nn.module.REMAT`).
    """

    config: AudioModelConfig
    remat: str = "all"

    def setup(self) -> None:
        audio, c = self.config, self.config.acoustic_transformer_args
        layer = LayerConfig.of(c, part="flow_")
        self.semantic_codebook_output = Linear(audio.semantic_rows, ("vocab", "embed"))
        self.input_projection = Linear(c.dim, ("embed", None))
        self.time_embedding = TimeEmbedding(c.dim)
        self.time_projection = Linear(c.dim, ("embed", None))
        self.llm_projection = Linear(c.dim, ("embed", None))
        self.layers = [TransformerLayer(layer) for _ in range(c.n_layers)]
        self.norm = RMSNorm(c.norm_eps)
        self.acoustic_codebook_output = Linear(audio.n_acoustic_codebook, (None, "embed"))

    def semantic_logits(self, hidden: Float[Array, "B D"]) -> Float[Array, "B rows"]:
        """Logits of the semantic audio token, float32; [EMPTY_AUDIO] and the padding are masked."""
        logits = self.semantic_codebook_output(hidden).astype(jnp.float32)
        ids = jnp.arange(logits.shape[-1])
        allowed = (ids >= END_AUDIO) & (ids < self.config.codebook_sizes[0])
        return jnp.where(allowed, logits, MASKED)

    def time_tokens(self, t: Float[Array, " N"], dtype: jnp.dtype) -> Float[Array, "N width"]:
        """What the network sees of the times t."""
        return self.time_projection(self.time_embedding(t).astype(dtype))

    def condition(self, hidden: Float[Array, "B D"]) -> Float[Array, "B width"]:
        """What the network sees of the hidden state."""
        return self.llm_projection(hidden)

    def velocity(
        self,
        x: Float[Array, "B A"],
        time_token: Float[Array, "B width"],
        condition: Float[Array, "B width"],
    ) -> Float[Array, "B A"]:
        """dx/dt at x, float32.

        Args:
            x: state, in the space of code values.
            time_token: from `time_tokens`.
            condition: from `condition`; zeros for guidance's unconditional velocity.
        """
        state = self.input_projection(x.astype(condition.dtype))
        y = jnp.stack([state, time_token, condition], axis=1)
        for i, layer in enumerate(self.layers):
            # Only the state's output is read: the last layer answers for position 0 alone.
            queries = 1 if i == len(self.layers) - 1 else 3
            attend = partial(_attend_all, queries=queries)
            y, _ = rematerialised(layer, self.remat, attend=attend)(y)
        return self.acoustic_codebook_output(self.norm(y[:, 0])).astype(jnp.float32)

    def __call__(self, hidden: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """Logits and velocity; touches every weight, so `init` makes them all."""
        velocity = self.velocity(x, self.time_tokens(t, hidden.dtype), self.condition(hidden))
        return self.semantic_logits(hidden), velocity
