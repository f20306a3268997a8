"""The script that lets Whisper teach; skipped without torch and transformers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from voxtral_jax.training.data.utterances import Utterance

torch = pytest.importorskip("torch", reason="needs the extra voxtral-jax[whisper]")
transformers = pytest.importorskip("transformers", reason="needs the extra voxtral-jax[whisper]")

SCRIPT = Path(__file__).parents[1] / "scripts" / "whisper_targets.py"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("whisper_targets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Letters:
    """A tokenizer of letters, with Whisper's special tokens at the end."""

    unk_token_id = 0

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(letter) % 50 + 1 for letter in text]

    def convert_tokens_to_ids(self, name: str) -> int:
        return 60 + ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"].index(
            name
        )


@pytest.fixture(scope="module")
def teacher(script):
    """A tiny Whisper with random weights."""
    config = transformers.WhisperConfig(
        vocab_size=64,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=80,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=60,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    processor = SimpleNamespace(tokenizer=Letters(), feature_extractor=extractor)
    return script.Teacher(model, processor, [(1, 0), (1, 1)], "cpu")


def said(text: str, seconds: float) -> tuple[Utterance, np.ndarray]:
    one = Utterance(key=text, audio="a", texts=(text,), language="en", speaker="s", seconds=seconds)
    samples = np.random.default_rng(len(text)).standard_normal(int(16_000 * seconds))
    return one, samples.astype(np.float32)


def test_a_batch_teaches_what_each_alone_would(script, teacher) -> None:
    batch = [said("a short one", 1.3), said("another, which is longer", 2.0)]
    together = list(script.teach(teacher, batch, 12.5))
    for (one, samples), (key, hidden, alignment) in zip(batch, together, strict=True):
        assert key == one.key
        assert hidden.shape == (len(one.texts[0]) + 1, 16)
        assert alignment.shape == (len(hidden), int(np.ceil(len(samples) / 16_000 * 12.5)))
        assert alignment.min() >= 0
        ((_, alone, aligned),) = script.teach(teacher, [(one, samples)], 12.5)
        np.testing.assert_allclose(hidden, alone, atol=1e-4)
        np.testing.assert_allclose(alignment, aligned, atol=1e-4)


def test_alignment_finds_where_the_attention_is(script) -> None:
    attention = torch.full((2, 4, 1500), 0.001)
    for token in range(4):
        attention[:, token, 25 * token : 25 * token + 25] = 0.1
    alignment = script.soft_alignment(attention, 100, 25)
    np.testing.assert_array_equal(alignment.argmax(axis=0)[[2, 8, 14, 21]], [0, 1, 2, 3])
    assert alignment[0, 8:].max() < 1e-6


def test_the_median_ignores_a_click(script) -> None:
    weights = torch.zeros(1, 1, 20)
    weights[..., 10] = 5
    assert not script.median_filter(weights, 7).any()
    step = torch.cat([torch.zeros(1, 1, 10), torch.ones(1, 1, 10)], dim=-1)
    assert torch.equal(script.median_filter(step, 7), step)


def test_what_whisper_cannot_hear_is_left_out(script, teacher) -> None:
    assert "30 s" in script.usable(teacher, said("x", 31.0)[0])
    assert "tokens" in script.usable(teacher, said("x" * 500, 3.0)[0])
    assert script.usable(teacher, said("fine", 3.0)[0]) is None
