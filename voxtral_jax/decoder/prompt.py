"""The prompt: `[BOS] [BEGIN_AUDIO] [AUDIO x N] [text begins] text [text ends] [BEGIN_AUDIO]`.

The embeddings at `[AUDIO]` are replaced by the voice prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from voxtral_jax.buckets import bucket
from voxtral_jax.config import END_AUDIO, TOKEN_OFFSET, VoxtralConfig
from voxtral_jax.decoder.model import Decoder
from voxtral_jax.nn.module import apply

if TYPE_CHECKING:
    from voxtral_jax.text.tokenizer import Tokenizer

LEAST_PROMPT = 64
"""Smallest padded prompt, in tokens."""
MARKS = 5
"""Tokens of a prompt that are neither voice nor text."""


@struct.dataclass
class PromptBatch:
    """Prompts of B sequences, padded on the right.

    Attributes:
        ids: `[B, P]` int32 token ids.
        lengths: `[B]` int32 tokens of each prompt.
        voices: `[B, N, D]` voice prompts, padded on the right.
    """

    ids: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    voices: Float[Array, "B N D"]


def prompt_ids(
    config: VoxtralConfig,
    tokenizer: Tokenizer,
    text: str,
    voice_length: int,
    language: str | None = None,
) -> list[int]:
    """Token ids of one prompt.

    Args:
        text: what to say.
        voice_length: N, the number of embeddings of the voice prompt.
        language: of the text, for tokenizers that need it; None detects it.
    """
    audio = config.audio
    return [
        config.multimodal.bos_token_id,
        audio.begin_audio_token_id,
        *[audio.audio_token_id] * voice_length,
        tokenizer.begin_text,
        *tokenizer.encode(text, language),
        tokenizer.end_text,
        audio.begin_audio_token_id,
    ]


def batch_prompts(
    prompts: Sequence[Sequence[int]], voices: Sequence[Float[np.ndarray, "N D"]]
) -> PromptBatch:
    """Pads prompts and their voice prompts to one bucketed length, so that it alone is a shape."""
    rows = len(prompts)
    length = bucket(max(len(ids) for ids in prompts), LEAST_PROMPT)
    padded = np.zeros((rows, length), np.int32)
    stacked = np.zeros((rows, length, voices[0].shape[1]), np.float32)
    for row, (ids, voice) in enumerate(zip(prompts, voices, strict=True)):
        padded[row, : len(ids)] = ids
        stacked[row, : len(voice)] = voice
    lengths = np.array([len(ids) for ids in prompts], np.int32)
    return PromptBatch(*map(jnp.asarray, (padded, lengths, stacked)))


def embed_prompt(params: Any, config: VoxtralConfig, prompt: PromptBatch) -> Float[Array, "B P D"]:
    """Input embeddings of the prompts, the voice prompts in place of `[AUDIO]`."""
    text = apply(Decoder(config), params, prompt.ids, method="embed_text")
    is_audio = prompt.ids == config.audio.audio_token_id
    place = jnp.clip(jnp.cumsum(is_audio, axis=1) - 1, 0, prompt.voices.shape[1] - 1)
    voice = jnp.take_along_axis(prompt.voices, place[..., None], axis=1).astype(text.dtype)
    return jnp.where(is_audio[..., None], voice, text)


def voice_tokens(codes: Int[np.ndarray, "T K"]) -> Int[np.ndarray, "N K"]:
    """Audio tokens of a voice prompt: the codes with offset, then one `[END_AUDIO]` frame."""
    end = np.zeros((1, codes.shape[1]), np.int32)
    end[0, 0] = END_AUDIO
    return np.concatenate([codes.astype(np.int32) + TOKEN_OFFSET, end])
