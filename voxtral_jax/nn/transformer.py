"""Pre-norm transformer layer of the codec, the decoder and the flow.

How queries meet keys (cache, window, rotary embedding) is the caller's: it passes `attend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import flax.linen as nn
from jaxtyping import Array, Float

from voxtral_jax.config import AcousticTransformerConfig, CodecConfig, VoxtralConfig
from voxtral_jax.nn.linear import Linear, RMSNorm, SwiGLU
from voxtral_jax.nn.module import declare

Attend: TypeAlias = Callable[[Array, Array, Array], tuple[Array, Any]]
"""`attend(q [B T H head], k [B T G head], v) -> (values [B T' H head], state to hand back)`."""


Sizes: TypeAlias = AcousticTransformerConfig | CodecConfig | VoxtralConfig
"""Configurations that describe a transformer."""


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """Sizes of one layer.

    Attributes:
        qk_norm_eps: RMS norm of whole query and key vectors before the split into heads (codec).
        layer_scale_init: learned scale of each residual branch (codec).
        part: prefix of the logical axes of heads and feed-forward ("", "flow_" or "codec_").
    """

    dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    norm_eps: float
    qk_norm_eps: float | None = None
    layer_scale_init: float | None = None
    part: str = ""

    @classmethod
    def of(cls, config: Sizes, **more: Any) -> LayerConfig:
        """The layer of a part of the model, from that part's configuration."""
        return cls(
            dim=config.dim,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            hidden_dim=config.hidden_dim,
            norm_eps=config.norm_eps,
            **more,
        )


class Attention(nn.Module):
    """Projections around `attend`: grouped queries, no biases."""

    config: LayerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], attend: Attend) -> tuple[Array, Any]:
        c = self.config
        heads, kv_heads = f"{c.part}heads", f"{c.part}kv_heads"
        q = Linear(c.n_heads * c.head_dim, (heads, "embed"), name="wq")(x)
        k = Linear(c.n_kv_heads * c.head_dim, (kv_heads, "embed"), name="wk")(x)
        v = Linear(c.n_kv_heads * c.head_dim, (kv_heads, "embed"), name="wv")(x)
        if c.qk_norm_eps is not None:
            q = RMSNorm(c.qk_norm_eps, name="q_norm")(q)
            k = RMSNorm(c.qk_norm_eps, name="k_norm")(k)
        split = (*x.shape[:2], -1, c.head_dim)
        y, state = attend(q.reshape(split), k.reshape(split), v.reshape(split))
        y = y.reshape(*y.shape[:2], -1)
        return Linear(c.dim, ("embed", heads), name="wo")(y), state


class TransformerLayer(nn.Module):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    If `attend` answers for the first queries only, the layer's output is that short too.
    """

    config: LayerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], attend: Attend) -> tuple[Array, Any]:
        c = self.config
        y, state = Attention(c, name="attention")(
            RMSNorm(c.norm_eps, name="attention_norm")(x), attend
        )
        x = x[:, : y.shape[1]] + self._scaled("attention_scale", y)
        y = SwiGLU(c.hidden_dim, name="feed_forward")(RMSNorm(c.norm_eps, name="ffn_norm")(x))
        return x + self._scaled("ffn_scale", y), state

    def _scaled(self, name: str, y: Array) -> Array:
        if self.config.layer_scale_init is None:
            return y
        init = nn.initializers.constant(self.config.layer_scale_init)
        return y * declare(self, name, init, (self.config.dim,)).astype(y.dtype)
