"""The weights as one tree, derived from the modules' own declarations.

`{"decoder": ..., "flow": ..., "codec": ...}`; a leaf's path is its checkpoint key. Shapes, logical
axes, initialisation, counts and checkpoint names all follow from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from voxtral_jax.codec import Codec, encoder_names
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.decoder.model import Decoder
from voxtral_jax.flow.model import FlowHead

Params = dict[str, Any]

PREFIXES = {"decoder": "", "flow": "acoustic_transformer.", "codec": "audio_tokenizer."}
"""Part of the model -> prefix of its checkpoint keys."""


def init_params(config: VoxtralConfig, key: jax.Array) -> Params:
    """Random float32 weights, boxed with their logical axes (`nn.meta.unbox` takes them out)."""
    decoder, flow, codec = jax.random.split(key, 3)
    ids = jnp.zeros((1, 2), jnp.int32)
    hidden = jnp.zeros((1, config.dim))
    x = jnp.zeros((1, config.audio.n_acoustic_codebook))
    frame = jnp.zeros((1, config.codec.stride, config.codec.pretransform_patch_size))
    steps = jnp.full((1,), config.codec.stride)
    return {
        "decoder": Decoder(config).init(decoder, ids)["params"],
        "flow": FlowHead(config.audio).init(flow, hidden, x, jnp.zeros((1,)))["params"],
        "codec": Codec(config.codec).init(codec, frame, steps)["params"],
    }


@lru_cache(maxsize=8)
def _abstract(config: VoxtralConfig) -> Params:
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def abstract_params(config: VoxtralConfig, *, encoder: bool = True) -> Params:
    """Shape and logical axes of every weight (`nn.Partitioned` around `ShapeDtypeStruct`).

    Args:
        encoder: with the codec's encoder, which the released checkpoint leaves out.
    """
    params = dict(_abstract(config))
    if not encoder:
        dropped = encoder_names(config.codec)
        params["codec"] = {k: v for k, v in params["codec"].items() if k not in dropped}
    return params


def checkpoint_key(path: tuple[str, ...]) -> str:
    """Checkpoint key of a leaf: `("decoder", "layers_0", ...)` is `layers.0...`."""
    part, *names = path
    numbered = (re.sub(r"(layers|blocks)_(\d+)$", r"\1.\2", name) for name in names)
    return PREFIXES[part] + ".".join(numbered)


def leaves(params: Params) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of the tree with its path; a boxed leaf counts as one."""
    flat = jax.tree_util.tree_flatten_with_path(
        params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )[0]
    for path, leaf in flat:
        yield tuple(entry.key for entry in path), leaf


def unflatten(flat: dict[tuple[str, ...], Any]) -> Params:
    """The tree whose leaves have these paths."""
    tree: Params = {}
    for path, leaf in flat.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = leaf
    return tree


def count(params: Params) -> int:
    """Number of weights."""
    return sum(x.size for x in jax.tree.leaves(nn.meta.unbox(params)))
