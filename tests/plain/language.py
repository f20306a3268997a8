"""The language model: token ids and embeddings of a prompt, hidden states of a sequence."""

from pathlib import Path

import numpy as np
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from .layers import Weights, transformer

EMPTY_AUDIO, END_AUDIO, OFFSET = 0, 1, 2
"""Codes with offset: two special ones stand before the codes of the codec."""


def codebook_sizes(params: dict) -> list[int]:
    """Entries of each codebook of a frame, the two special ones included."""
    audio = params["multimodal"]["audio_model_args"]
    acoustic = [audio["acoustic_codebook_size"] + OFFSET] * audio["n_acoustic_codebook"]
    return [audio["semantic_codebook_size"] + OFFSET, *acoustic]


def padded(count: int) -> int:
    """The next multiple of 128."""
    return -(-count // 128) * 128


def prompt_ids(params: dict, tekken: Path, text: str, voice_frames: int) -> np.ndarray:
    """Token ids [P] for a text behind a voice prompt of so many embeddings."""
    tokenizer = Tekkenizer.from_file(tekken)
    multimodal = params["multimodal"]
    begin = multimodal["audio_model_args"]["begin_audio_token_id"]
    ids = [multimodal["bos_token_id"], begin]
    ids += [multimodal["audio_model_args"]["audio_token_id"]] * voice_frames
    ids.append(tokenizer.get_special_token("[NEXT_AUDIO_TEXT]"))
    ids += tokenizer.encode(text, bos=False, eos=False)
    ids += [tokenizer.get_special_token("[REPEAT_AUDIO_TEXT]"), begin]
    if max(ids) >= params["vocab_size"]:
        raise ValueError(f"token id {max(ids)} needs a vocab_size over {params['vocab_size']}")
    return np.array(ids, np.int32)


def embed_prompt(w: Weights, params: dict, ids: np.ndarray, voice: np.ndarray) -> np.ndarray:
    """Embeddings [P, D]: those of the ids, at the audio places those of the voice [N, D]."""
    table = w["mm_audio_embeddings.tok_embeddings.weight"]
    x = table[ids].copy()
    x[ids == params["multimodal"]["audio_model_args"]["audio_token_id"]] = voice
    return x


def embed_codes(w: Weights, params: dict, codes: np.ndarray) -> np.ndarray:
    """The sum of the rows of one frame's codes [K], with offset, in the one shared table: [D]."""
    table = w["mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"]
    total, start = np.zeros(table.shape[1], table.dtype), 0
    for code, size in zip(codes, codebook_sizes(params), strict=True):
        if not 0 <= code < size:
            raise ValueError(f"code {code} lies outside a codebook of {size}")
        total += table[start + code]
        start += size
    return total


def hidden_states(w: Weights, params: dict, x: np.ndarray) -> np.ndarray:
    """Embeddings [P, D] -> hidden states after the final norm [P, D]."""
    return transformer(w, "", params, x, params["norm_eps"], params["rope_theta"])
