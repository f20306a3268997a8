"""A model small enough to train in a test, synthetic speech, and settings that fit both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import soundfile

from voxtral_jax import VoxtralConfig
from voxtral_jax.parameters import Params
from voxtral_jax.training import stages
from voxtral_jax.training.data.shards import CodeRecord, CodeWriter
from voxtral_jax.training.pitch import LATENTS
from voxtral_jax.training.recipe import CodecTraining
from voxtral_jax.training.settings import build_settings

RATE = 24_000


def small_config() -> VoxtralConfig:
    """Everything small, the codec of two stages; 12.5 frames a second as always."""
    codebooks = {"semantic_codebook_size": 32, "acoustic_codebook_size": 21}
    heads = {"n_heads": 2, "n_kv_heads": 2, "head_dim": 16, "hidden_dim": 64}
    return VoxtralConfig.from_dict(
        {
            "dim": 32,
            "n_layers": 2,
            **heads,
            "vocab_size": 320,
            "tokenizer": "bytes",
            "multimodal": {
                "audio_model_args": {
                    **codebooks,
                    "n_acoustic_codebook": 4,
                    "audio_encoding_args": {
                        "num_codebooks": 5,
                        "sampling_rate": RATE,
                        "frame_rate": 12.5,
                    },
                    "acoustic_transformer_args": {
                        "input_dim": 32,
                        "dim": 32,
                        "n_layers": 2,
                        "n_decoding_steps": 2,
                        **heads,
                    },
                },
                "audio_tokenizer_args": {
                    **codebooks,
                    "semantic_dim": 8,
                    "acoustic_dim": 4,
                    "dim": 32,
                    **heads,
                    # Compilation is most of what a test of training costs: few stages.
                    "encoder_transformer_lengths_str": "1,1",
                    "encoder_convs_kernels_str": "8,3",
                    "encoder_convs_strides_str": "8,1",
                    "decoder_transformer_lengths_str": "1,1",
                    "decoder_convs_kernels_str": "3,8",
                    "decoder_convs_strides_str": "1,8",
                },
            },
        }
    )


def wide_config() -> VoxtralConfig:
    """A small configuration whose codec can hold pitch beside three components."""
    data = small_config().to_dict()
    data["multimodal"]["audio_model_args"]["n_acoustic_codebook"] = LATENTS + 3
    data["multimodal"]["audio_model_args"]["audio_encoding_args"]["num_codebooks"] = LATENTS + 4
    data["multimodal"]["audio_tokenizer_args"]["acoustic_dim"] = LATENTS + 3
    return VoxtralConfig.from_dict(data)


def hum(seconds: float, pitch: float, seed: int) -> np.ndarray:
    """Syllables of a harmonic sound with a wandering pitch: speech, as far as a codec can tell."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    bend = 1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.5, 2) * time)
    phase = 2 * np.pi * np.cumsum(pitch * bend) / RATE
    loud = np.abs(np.sin(2 * np.pi * random.uniform(1.5, 2.5) * time))
    sound = sum(np.sin(k * phase + random.uniform(0, 6)) / k for k in range(1, 8))
    return (0.1 * loud * sound + 0.001 * random.standard_normal(len(time))).astype(np.float32)


def write_recordings(folder: Path, count: int = 4, seconds: float = 1.6) -> Path:
    """Recordings of two speakers, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        name, speaker = f"{i}.wav", i % 2
        soundfile.write(folder / name, hum(seconds + 0.08 * i, 120 + 80 * speaker, i), RATE)
        lines.append(
            {"audio": name, "text": f"Hum {i}.", "language": "en", "speaker": f"s{speaker}"}
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def common(out: Path, steps: int | None, rate: float) -> dict[str, Any]:
    """The tables that all trained stages have; one device, every step logged."""
    return {
        "run": {"out": str(out), "seed": 3} | ({} if steps is None else {"steps": steps}),
        "optimizer": {"learning_rate": rate, "schedule": "constant", "warmup_steps": 2},
        "mesh": {"data": 1},
        "checkpoints": {"every_steps": 1000},
        "logging": {
            "every_steps": 1,
            "validate_every_steps": 1000,
            "samples": 2,
            "tensorboard": False,
        },
    }


def codec_table(params: Path, manifest: Path, out: Path, steps: int) -> dict[str, Any]:
    """Settings of a codec run with CTC, and without discriminators, which are slow on a CPU."""
    return common(out, steps, 3e-3) | {
        "params": str(params),
        "data": {
            "manifest": str(manifest),
            "validation": str(manifest),
            "batch_size": 4,
            "crop_seconds": 2.0,
            "validation_seconds": 1.2,
        },
        "losses": {"stft_windows": [334], "feature_matching": 0.0},
        "discriminators": {"channels": 2, "windows": [126, 76]},
    }


def speech_table(params: Path, codes: Path, out: Path, steps: int) -> dict[str, Any]:
    """Settings of a speech run."""
    return common(out, steps, 3e-3) | {
        "params": str(params),
        "data": {
            "codes": str(codes),
            "validation": str(codes),
            "batch_size": 8,
            "packing": {"row_tokens": 128, "row_targets": 64, "prompt_seconds": [1.0, 1.5]},
        },
        "losses": {"dtype": "float32"},
    }


def write_codes(folder: Path, count: int = 6) -> Path:
    """Code shards of two speakers; the codes are random."""
    random = np.random.default_rng(0)
    audio = small_config().audio
    sizes = [audio.semantic_codebook_size] + [audio.acoustic_codebook_size] * 4
    with CodeWriter(folder) as writer:
        for i in range(count):
            frames = 14 + i
            writer.write(
                CodeRecord(
                    key=f"{i}",
                    codes=random.integers(0, sizes, (frames, len(sizes))),
                    speech=np.ones(frames, bool),
                    texts=(f"Words {i}.",),
                    language="en",
                    speaker=f"s{i % 2}",
                    audio=f"{i}.wav",
                    start=0.0,
                    end=frames / 12.5,
                )
            )
    return folder


def run(stage: str, table: dict[str, Any]) -> list[str]:
    """Runs a stage as `train.py` does."""
    return stages.run(stage, build_settings(stages.SETTINGS[stage], table, "a test"))


def random_weights(training: CodecTraining) -> Params:
    """Where a codec's training starts, made in one program: op by op takes twice as long."""
    params: Params = nn.meta.unbox(jax.jit(training.init)(jax.random.key(0)))
    return params


def read_metrics(out: Path, group: str = "train") -> list[dict[str, float]]:
    """What a run logged."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["group"] == group]
