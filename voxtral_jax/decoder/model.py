"""The AR decoder: embeddings, transformer layers with a key/value cache, final norm.

Checkpoint keys: `layers.N.*`, `norm.weight`, `mm_audio_embeddings.*`. There are no text logits: the
hidden state goes to the heads in `voxtral_jax.flow`.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from voxtral_jax.config import AudioModelConfig, VoxtralConfig
from voxtral_jax.nn.linear import Embedding, RMSNorm
from voxtral_jax.nn.module import rematerialised
from voxtral_jax.nn.positions import rotate
from voxtral_jax.nn.transformer import LayerConfig, TransformerLayer


@struct.dataclass
class KVCache:
    """Keys and values of B sequences, one array a layer, so that each is updated in place.

    Attributes:
        keys, values: for each layer `[B, L, G, head]`; what lies at and beyond a sequence's
            length is garbage that its next tokens overwrite before they look at it.
    """

    keys: tuple[Float[Array, "B L G head"], ...]
    values: tuple[Float[Array, "B L G head"], ...]

    @classmethod
    def empty(cls, config: VoxtralConfig, batch: int, length: int, dtype: jnp.dtype) -> KVCache:
        """A cache for `batch` sequences of up to `length` tokens."""
        shape = (batch, length, config.n_kv_heads, config.head_dim)
        keys, values = (
            tuple(jnp.zeros(shape, dtype) for _ in range(config.n_layers)) for _ in range(2)
        )
        return cls(keys, values)


class CodebookEmbeddings(nn.Module):
    """One table for all codebooks; codebook k starts at the sum of the sizes before it."""

    config: AudioModelConfig
    dim: int

    def setup(self) -> None:
        self.embeddings = Embedding(self.config.embedding_rows, self.dim, (None, "embed"))

    def __call__(self, tokens: Int[Array, "*batch K"]) -> Float[Array, "*batch D"]:
        """Sum of the K rows, added up in float32."""
        rows = self.embeddings(tokens + jnp.asarray(self.config.codebook_offsets, jnp.int32))
        return jnp.sum(rows.astype(jnp.float32), axis=-2).astype(rows.dtype)

    def by_product(self, tokens: Int[Array, "*batch K"]) -> Float[Array, "*batch D"]:
        """The same sum as a product of the table with rows of ones and zeros.

        Training many frames at once takes less memory so, and its gradient is a product as well,
        not a scattered sum.
        """
        semantic, acoustic = self.config.codebook_sizes[:2]
        table = self.embeddings.table()
        first = jax.nn.one_hot(tokens[..., 0], semantic, dtype=table.dtype)
        others = jax.nn.one_hot(tokens[..., 1:], acoustic, dtype=table.dtype)
        ones = jnp.concatenate([first, others.reshape(*others.shape[:-2], -1)], axis=-1)
        total = jnp.einsum(
            "...r,rd->...d",
            ones,
            table[: ones.shape[-1]],
            preferred_element_type=jnp.float32,
        )
        return total.astype(table.dtype)


class InputEmbeddings(nn.Module):
    """Text and audio embeddings."""

    config: VoxtralConfig

    def setup(self) -> None:
        c = self.config
        self.tok_embeddings = Embedding(c.vocab_size, c.dim, ("vocab", "embed"))
        self.audio_codebook_embeddings = CodebookEmbeddings(c.audio, c.dim)


class Decoder(nn.Module):
    """The decoder; activations have the type of the embeddings.

    Attributes:
        config: sizes.
        remat: what training keeps of each layer for the backward pass (`nn.module.REMAT`).
    """

    config: VoxtralConfig
    remat: str = "all"

    def setup(self) -> None:
        c = self.config
        self.mm_audio_embeddings = InputEmbeddings(c)
        self.layers = [TransformerLayer(LayerConfig.of(c)) for _ in range(c.n_layers)]
        self.norm = RMSNorm(c.norm_eps)

    def embed_text(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Embeddings of text tokens."""
        return self.mm_audio_embeddings.tok_embeddings(ids)

    def embed_audio(self, tokens: Int[Array, "*batch K"]) -> Float[Array, "*batch D"]:
        """Embedding of a frame of audio tokens (codes with offset)."""
        return self.mm_audio_embeddings.audio_codebook_embeddings(tokens)

    def embed_packed(
        self,
        ids: Int[Array, "*batch"],
        tokens: Int[Array, "*batch K"],
        audio: Bool[Array, "*batch"],
    ) -> Float[Array, "*batch D"]:
        """Embeddings of a mixture: text ids, and frames of audio tokens where `audio`."""
        frames = self.mm_audio_embeddings.audio_codebook_embeddings.by_product(tokens)
        return jnp.where(audio[..., None], frames, self.embed_text(ids))

    def extend(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        cache: KVCache,
        span: int,
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """Appends T tokens (prefill: the prompt; decode step: one) to the sequences.

        Args:
            x: input embeddings.
            positions: place of each token in its sequence and in the cache.
            cache: of the tokens before.
            span: how much of the cache to look at, at least the last position + 1.

        Returns:
            Hidden states after the final norm, and the cache with the tokens added.
        """
        rows = jnp.arange(x.shape[0])[:, None]
        visible = jnp.arange(span)[None, None, None] <= positions[:, None, :, None]
        keys, values = [], []

        for layer, old_keys, old_values in zip(self.layers, cache.keys, cache.values, strict=True):

            def attend(
                q: Array,
                k: Array,
                v: Array,
                old_keys: Array = old_keys,
                old_values: Array = old_values,
            ) -> tuple[Array, tuple[Array, Array]]:
                theta = self.config.rope_theta
                q, k = rotate(q, positions, theta), rotate(k, positions, theta)
                k = old_keys.at[rows, positions].set(k.astype(old_keys.dtype), mode="drop")
                v = old_values.at[rows, positions].set(v.astype(old_values.dtype), mode="drop")
                y = jax.nn.dot_product_attention(q, k[:, :span], v[:, :span], mask=visible)
                return y, (k, v)

            x, (new_keys, new_values) = layer(x, attend)
            keys.append(new_keys)
            values.append(new_values)
        return self.norm(x), KVCache(tuple(keys), tuple(values))

    def hidden(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        watched: Sequence[int] = (),
    ) -> tuple[Float[Array, "B T D"], list[tuple[Array, Array]]]:
        """Hidden states of packed sequences, without a cache: how training sees the decoder.

        Args:
            x: input embeddings.
            positions: place of each token in its sequence.
            segments: which sequence a token is of; it sees the tokens of its own before it.
            watched: layers of which the first head's queries and keys are asked for.

        Returns:
            Hidden states after the final norm, and of each watched layer queries and keys
            `[B, T, head]`, rotated.
        """
        before = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        visible = ((segments[:, :, None] == segments[:, None, :]) & before)[:, None]

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
            theta = self.config.rope_theta
            q, k = rotate(q, positions, theta), rotate(k, positions, theta)
            first_head = q[:, :, 0], k[:, :, 0]
            return jax.nn.dot_product_attention(q, k, v, mask=visible), first_head

        seen = []
        for layer in self.layers:
            x, first_head = rematerialised(layer, self.remat, attend=attend)(x)
            seen.append(first_head)
        return self.norm(x), [seen[layer] for layer in watched]

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Hidden states of token sequences; touches every weight, so `init` makes them all."""
        batch, count = ids.shape
        x = self.embed_text(ids)
        x = x + 0 * self.embed_audio(jnp.zeros((1, self.config.audio.n_codebooks), jnp.int32))
        positions = jnp.broadcast_to(jnp.arange(count), (batch, count))
        cache = KVCache.empty(self.config, batch, count, x.dtype)
        return self.extend(x, positions, cache, count)[0]
