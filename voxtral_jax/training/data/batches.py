"""What a training step is given: batches of fixed shapes, on the host and then on the mesh.

Axis letters: B rows, S samples, T codec frames, L tokens of a packed row, M target frames of a
packed row, K codebooks.
"""

from __future__ import annotations

from typing import Any

from flax import struct
from jaxtyping import Bool, Float, Int


@struct.dataclass
class CropBatch:
    """Crops of recordings, for the codec.

    Attributes:
        samples: `[B, S]` float32 at the codec's rate, zeros after the crop's end.
        lengths: `[B]` int32 valid samples; 0 marks a recording that could not be read.
        utterances: `[B]` int32, which utterance of the manifest each row is of.
        targets: arrays `[B, ...]` that the distillation asked for, by name.
        goals: `[B, S]` what the codec is to give back, where that is something else.
        pitch: `[B, T]` float32 Hz at the end of each frame, 0 in one without a voice, where that is
            known.
    """

    samples: Float[Any, "B S"]
    lengths: Int[Any, " B"]
    utterances: Int[Any, " B"]
    targets: dict[str, Any]
    goals: Float[Any, "B S"] | None = None
    pitch: Float[Any, "B T"] | None = None

    @property
    def wanted(self) -> Float[Any, "B S"]:
        """What the codec is to give back."""
        return self.samples if self.goals is None else self.goals


@struct.dataclass
class SpeechBatch:
    """Packed rows of prompts and target speech, exactly as inference lays them out.

    A row holds several sequences one after the other. A sequence is the prompt of
    `voxtral_jax.decoder.prompt` (voice frames with offset and their `[END_AUDIO]` frame at
    `[AUDIO]`), then the target's frames. The hidden state of the prompt's last token predicts the
    first frame, that of the last frame predicts `[END_AUDIO]`.

    Attributes:
        ids: `[B, L]` int32 text ids; at audio frames the config's `audio_token_id`; 0 in padding.
        audio: `[B, L]` bool, where the input is a frame of audio tokens.
        tokens: `[B, L, K]` int16 audio tokens (codes with offset) where `audio`, else 0.
        segments: `[B, L]` int32, which sequence a token is of, from 1; 0 in padding.
        positions: `[B, L]` int32, place within its sequence.
        places: `[B, M]` int32, tokens whose hidden states predict, in order; 0 in padding.
        targets: `[B, M, K]` int16 audio tokens to predict: a frame, or `[END_AUDIO]` and zeros.
        heard: `[B, M, 2]` int32, first and last of the text tokens that are heard in the target
            frame; -1 where that is not known.
        semantic_weights: `[B, M]` float32 share in the semantic loss: 0 in padding, long silence.
        flow_weights: `[B, M]` float32 share in the flow loss: also 0 at `[END_AUDIO]`.
    """

    ids: Int[Any, "B L"]
    audio: Bool[Any, "B L"]
    tokens: Int[Any, "B L K"]
    segments: Int[Any, "B L"]
    positions: Int[Any, "B L"]
    places: Int[Any, "B M"]
    targets: Int[Any, "B M K"]
    heard: Int[Any, "B M 2"]
    semantic_weights: Float[Any, "B M"]
    flow_weights: Float[Any, "B M"]
