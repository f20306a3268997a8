"""The entries of expected.safetensors, computed from a model and the inputs of a reference."""

from dataclasses import dataclass

import numpy as np

from . import codec, flow, language
from .model import Model

MARGIN = 2e-4
"""Of a level: no acoustic code may lie closer to a rounding boundary (README of the reference)."""
LOGIT_MARGIN = 1e-3
"""No semantic logit may lie closer below the largest one."""
DISTANCE_MARGIN = 1e-3
"""The second nearest semantic entry is at least so much further, relative to the nearest."""
GUIDANCES = (1.2, 3.0)


class UnsafeError(Exception):
    """A code that another correct implementation might round otherwise, or an ended run."""


@dataclass
class Margins:
    """The smallest margins met so far; `strict` raises as soon as one is too small."""

    strict: bool = False
    level: float = np.inf
    logit: float = np.inf
    distance: float = np.inf
    ended: bool = False

    def levels(self, positions: np.ndarray) -> None:
        """Note unrounded levels."""
        self.level = min(self.level, float(np.abs(positions % 1 - 0.5).min()))
        self.check()

    def logits(self, logits: np.ndarray) -> None:
        """Note the logits of one semantic code."""
        second, first = np.sort(logits)[-2:]
        self.logit = min(self.logit, float(first - second))
        self.ended |= int(np.argmax(logits)) == language.END_AUDIO
        self.check()

    def distances(self, distances: np.ndarray) -> None:
        """Note the distances [T, entries] of latents to the semantic entries."""
        nearest = np.sort(distances, axis=1)
        gap = (nearest[:, 1] - nearest[:, 0]) / nearest[:, 0]
        self.distance = min(self.distance, float(gap.min()))
        self.check()

    @property
    def safe(self) -> bool:
        """Whether every other correct implementation finds the same codes."""
        wide = self.level >= MARGIN and self.logit >= LOGIT_MARGIN
        return wide and self.distance >= DISTANCE_MARGIN and not self.ended

    def check(self) -> None:
        """Raise if that is asked for."""
        if self.strict and not self.safe:
            raise UnsafeError(str(self))


def encode_entries(model: Model, samples: np.ndarray, margins: Margins) -> dict[str, np.ndarray]:
    """`encode.*`, `voice.codes` and `voice.embedding` of a recording [S]."""
    w, args = model.weights, model.codec
    latent = codec.encode(w, args, samples.astype(w["norm.weight"].dtype))
    margins.levels(codec.acoustic_positions(args, latent))
    margins.distances(codec.semantic_distances(w, args, latent))
    codes = codec.quantise(w, args, latent)
    end = np.full((1, model.codebooks), language.EMPTY_AUDIO, np.int32)
    end[0, 0] = language.END_AUDIO
    voice = np.concatenate([codes + language.OFFSET, end])
    embedding = [language.embed_codes(w, model.params, frame) for frame in voice]
    return {
        "encode.latent": latent.T[None],
        "encode.codes": codes.T[None],
        "voice.codes": voice,
        "voice.embedding": np.stack(embedding),
    }


def decode_entries(model: Model, codes: np.ndarray) -> dict[str, np.ndarray]:
    """`decode.*` of codes [batch, K, T]."""
    w, args = model.weights, model.codec
    return {
        "decode.codes": codes,
        "decode.waveform": np.stack([codec.decode(w, args, item.T) for item in codes]),
        "decode.one_frame": codec.decode(w, args, codes[0, :, :1].T)[None],
    }


def acoustic_entries(
    model: Model, h: np.ndarray, x: np.ndarray, t: np.ndarray
) -> dict[str, np.ndarray]:
    """`acoustic.*` of random points h [5, D], x [5, acoustic], t [5]."""
    w, params = model.weights, model.params
    points = list(zip(h.astype(w["norm.weight"].dtype), x, t, strict=True))
    guidance = GUIDANCES[0]
    return {
        "acoustic.h": h,
        "acoustic.x": x,
        "acoustic.t": t,
        "acoustic.velocity": np.stack([flow.velocity(w, params, *point) for point in points]),
        "acoustic.semantic_logits": np.stack(
            [flow.semantic_logits(w, params, a) for a, _, _ in points]
        ),
        "acoustic.euler_cfg1.2": np.stack(
            [flow.euler(w, params, a, b, guidance) for a, b, _ in points]
        ),
        "acoustic.midpoint_cfg1.2": np.stack(
            [flow.midpoint(w, params, a, b, guidance) for a, b, _ in points]
        ),
    }


def generate(
    model: Model, prompt: np.ndarray, noise: np.ndarray, guidance: float, margins: Margins
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames after a prompt [P, D]: hidden [frames, D], flow [frames, acoustic], codes [frames, K].

    The whole sequence is run again for every frame: no cache that could be wrong.
    """
    w, params, sequence = model.weights, model.params, prompt
    hidden, ends, codes = [], [], []
    for start in noise:
        h = language.hidden_states(w, params, sequence)[-1]
        logits = flow.semantic_logits(w, params, h)
        margins.logits(logits)
        end = flow.euler(w, params, h, start, guidance)
        positions = flow.flow_positions(params, end)
        margins.levels(positions)
        acoustic = np.round(positions).astype(np.int32) + language.OFFSET
        frame = np.concatenate([[np.argmax(logits)], acoustic]).astype(np.int32)
        hidden.append(h)
        ends.append(end)
        codes.append(frame)
        step = language.embed_codes(w, params, frame)
        sequence = np.concatenate([sequence, step[None]])
    return np.stack(hidden), np.stack(ends), np.stack(codes)


def run_entries(
    model: Model, name: str, text: str, voice: np.ndarray, noise: np.ndarray, margins: Margins
) -> dict[str, np.ndarray]:
    """`voice.*` or `clone.*`, and the prompt's token ids."""
    w, params = model.weights, model.params
    ids = language.prompt_ids(params, model.tekken, text, len(voice))
    prompt = language.embed_prompt(w, params, ids, voice.astype(w["norm.weight"].dtype))
    entries = {
        f"prompt.{name}_tokens": ids,
        f"{name}.prefill_hidden": language.hidden_states(w, params, prompt)[None],
        f"{name}.noise": noise,
    }
    for guidance in GUIDANCES:
        hidden, ends, codes = generate(model, prompt, noise, guidance, margins)
        entries[f"{name}.cfg{guidance}.hidden"] = hidden
        entries[f"{name}.cfg{guidance}.flow"] = ends
        entries[f"{name}.cfg{guidance}.codes"] = codes
        if guidance == GUIDANCES[0] and not margins.ended:
            samples = codec.decode(w, model.codec, codes - language.OFFSET)
            entries[f"{name}.cfg{guidance}.waveform"] = samples[None]
    return entries
