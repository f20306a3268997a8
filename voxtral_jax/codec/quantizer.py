"""The codec's quantiser: nearest neighbour for the semantic part, FSQ for the acoustic part."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.config import CodecConfig
from voxtral_jax.kernels.fsq import code_values, quantize
from voxtral_jax.nn.module import declare

USAGE_FLOOR = 1e-5
"""Least cluster usage that the codebook's sums are divided by (published)."""


def codebook_table(
    embedding_sum: Float[Array, "entries dim"], cluster_usage: Float[Array, " entries"]
) -> Float[Array, "entries dim"]:
    """Semantic codebook from its moving averages, float32."""
    usage = jnp.maximum(cluster_usage.astype(jnp.float32), USAGE_FLOOR)
    return embedding_sum.astype(jnp.float32) / usage[:, None]


def nearest(
    x: Float[Array, "*batch dim"], table: Float[Array, "entries dim"]
) -> Int[Array, "*batch"]:
    """Index of the nearest entry (Euclidean)."""
    # |x - e|^2 without |x|^2, which is the same for every entry.
    dot = jnp.einsum("...d,ed->...e", x.astype(jnp.float32), table, precision="highest")
    return jnp.argmin(jnp.sum(table**2, axis=-1) - 2 * dot, axis=-1).astype(jnp.int32)


class SemanticCodebook(nn.Module):
    """Semantic codebook; keys `embedding_sum` and `cluster_usage`, or `embedding` once folded."""

    entries: int
    dim: int

    @nn.compact
    def __call__(self) -> Float[Array, "entries dim"]:
        if self.has_variable("params", "embedding"):
            return self.get_variable("params", "embedding")
        shape = (self.entries, self.dim)
        return codebook_table(
            declare(self, "embedding_sum", nn.initializers.normal(1.0), shape),
            declare(self, "cluster_usage", nn.initializers.ones, shape[:1]),
        )


class Quantizer(nn.Module):
    """Latents to codes and back."""

    config: CodecConfig

    def setup(self) -> None:
        self.semantic_codebook = SemanticCodebook(
            self.config.semantic_codebook_size, self.config.semantic_dim
        )

    def encode(self, latent: Float[Array, "B T latent"], kernels: str) -> Int[Array, "B T K"]:
        """Codes of a latent (no offset); `kernels` as in `voxtral_jax.kernels`."""
        semantic = nearest(latent[..., : self.config.semantic_dim], self.semantic_codebook())
        acoustic, _ = quantize(
            latent[..., self.config.semantic_dim :], self.config.acoustic_codebook_size, kernels
        )
        return jnp.concatenate([semantic[..., None], acoustic], axis=-1)

    def decode(self, codes: Int[Array, "B T K"]) -> Float[Array, "B T latent"]:
        """Quantised latent of codes (no offset), float32."""
        semantic = jnp.take(self.semantic_codebook(), codes[..., 0], axis=0).astype(jnp.float32)
        acoustic = code_values(codes[..., 1:], self.config.acoustic_codebook_size)
        return jnp.concatenate([semantic, acoustic], axis=-1)
