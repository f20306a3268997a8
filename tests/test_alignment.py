"""What is known of when each phoneme is spoken: in frames, in the codec's teacher, in attention."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from small import small_config

from voxtral_jax.config import EMPTY_AUDIO
from voxtral_jax.text.phonemes import SYMBOLS
from voxtral_jax.training import losses
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.data.layout import fill_row, heard_phonemes, lay_out, stack_rows
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.distillation import STEPS_PER_FRAME, make_distillation
from voxtral_jax.training.optimizer import make_optimizer, muon_matrices
from voxtral_jax.training.settings import OptimizerSettings
from voxtral_jax.training.speaking import model_params
from voxtral_jax.training.spectrum import magnitudes, mel_bands
from voxtral_jax.training.speech import (
    SpeechLosses,
    blank_frames,
    guided_attention,
    speech_loss,
)

CONFIG = dataclasses.replace(small_config(), tokenizer="phonemes")
RATE = CONFIG.codec.frame_rate


class Spelling:
    """One id for each letter, after one for the language."""

    begin_text, end_text, needs_language = 36, 35, True

    def encode(self, text: str, language: str | None = None) -> list[int]:
        return [64, *(70 + ord(letter) % 20 for letter in text)]


def spoken(text: str, ends: tuple[float, ...], frames: int = 6, voice: int = 3):
    random = np.random.default_rng(frames)
    sizes = [CONFIG.audio.semantic_codebook_size, *[21] * (CONFIG.audio.n_codebooks - 1)]
    codes = [random.integers(0, sizes, (count, len(sizes))) for count in (voice, frames)]
    return lay_out(CONFIG, Spelling(), text, *codes, phoneme_ends=ends)


def test_each_frame_hears_the_phonemes_that_overlap_it() -> None:
    ends = [0.05, 0.08, 0.2, 0.3]
    heard = heard_phonemes(ends, 5, 12.5)
    assert heard.tolist() == [[0, 1], [2, 2], [2, 3], [3, 3], [3, 3], [4, 4]]
    for frame, (first, last) in enumerate(heard[:4]):
        begins = [0, *ends][first]
        assert begins <= (frame + 1) / 12.5
        assert ends[last] >= (frame + 1) / 12.5 or last == len(ends) - 1


def test_heard_tokens_are_those_of_the_text() -> None:
    one = spoken("abc", (0.1, 0.2, 0.4))
    text = len(one.ids) - 6 - 2 - 3  # frames, the two marks after the text, its letters
    assert one.heard[0].tolist() == [text, text]
    assert one.heard[-1].tolist() == [text + 3, text + 3]
    assert one.ids[text + 3] == Spelling.end_text
    row = fill_row([one, one], CONFIG, 64, 16)
    second = row.heard[len(one.targets) : 2 * len(one.targets)]
    np.testing.assert_array_equal(second, one.heard + len(one.ids))
    assert (row.heard[2 * len(one.targets) :] == -1).all()


@pytest.mark.parametrize("ends", [(), (0.1, 0.2)])
def test_unknown_times_are_marked(ends: tuple[float, ...]) -> None:
    assert (spoken("abc", ends).heard == -1).all()


def test_attention_outside_is_minus_the_logarithm_of_what_is_inside() -> None:
    random = np.random.default_rng(0)
    queries, keys = random.standard_normal((2, 3, 4)), random.standard_normal((2, 7, 4))
    visible = np.arange(7) <= np.array([3, 5, 6])[None, :, None] + np.zeros((2, 1, 1))
    wanted = np.broadcast_to([[0, 1], [4, 5], [6, 6]], (2, 3, 2))
    scores = np.where(visible, np.einsum("bmh,blh->bml", queries, keys) / 2, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    inside = [weights[:, m, first : last + 1].sum(-1) for m, (first, last) in enumerate(wanted[0])]
    found = losses.attention_outside(*map(jnp.asarray, (queries, keys, visible, wanted)))
    np.testing.assert_allclose(found, -np.log(np.stack(inside, axis=1)), rtol=1e-5)


@pytest.fixture(scope="module")
def batch() -> SpeechBatch:
    rows = [[spoken("abc", (0.1, 0.2, 0.4)), spoken("hello", (0.1, 0.2, 0.3, 0.35, 0.4))]]
    return stack_rows([fill_row(row, CONFIG, 64, 16) for row in rows])


def test_guiding_teaches_a_head_where_to_look(batch: SpeechBatch) -> None:
    params = nn.unbox(model_params(CONFIG, jax.random.key(0)))
    settings = SpeechLosses(attention=1.0, guided=(1,), dtype="float32", condition_dropout=0.0)

    def loss(params, settings):
        return speech_loss(CONFIG, settings, "all", params, {}, batch, jax.random.key(1), 0)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, before), _ = step(params, settings)
    free = dataclasses.replace(settings, attention=0.0)
    (without, plain), _ = step(params, free)
    assert "attention" not in plain
    (total, _), _ = step(params, settings)
    np.testing.assert_allclose(total, without + before["attention"], rtol=1e-5)
    for _ in range(20):
        (_, metrics), found = step(params, settings)
        params = jax.tree.map(lambda weight, slope: weight - 0.05 * slope, params, found)
    assert metrics["attention"] < 0.7 * before["attention"]


def test_without_guided_layers_nothing_is_added(batch: SpeechBatch) -> None:
    assert not guided_attention(batch, []).any()


def test_phonemes_are_taught_where_they_are_heard() -> None:
    teacher = make_distillation("phonemes", None, 1920, 12.5, 4, read=True)
    one = Utterance(
        key="a",
        audio="a",
        texts=(),
        language="en",
        speaker="s",
        phonemes="tæ",
        phoneme_ends=(0.1, 0.2),
    )
    labels = teacher.targets(one, 0, 4 * 1920, True)["labels"]
    t, ae = (1 + SYMBOLS.index(symbol) for symbol in "tæ")
    assert labels.tolist() == [t] * 5 + [ae] * 5 + [0] * 6
    later = teacher.targets(one, 1920, 2 * 1920, False)["labels"]
    assert later[: 2 * STEPS_PER_FRAME].tolist() == labels[4:12].tolist()
    assert not teacher.targets(dataclasses.replace(one, phoneme_ends=()), 0, 1920, True)[
        "labels"
    ].any()
    params = teacher.init(jax.random.key(0), 8)
    semantic = jax.random.normal(jax.random.key(1), (1, 4, 8))
    loss, more = teacher.loss(params, semantic, jnp.ones((1, 4)), {"labels": labels[None]})
    assert loss == pytest.approx(np.log(len(SYMBOLS)), rel=0.3)
    assert 0 <= more["phoneme_accuracy"] <= 1


def test_log_mel_distance_equals_its_definition() -> None:
    real, fake = np.random.default_rng(0).standard_normal((2, 2, 600)).astype(np.float32) * 0.1
    bands = librosa.filters.mel(sr=24_000, n_fft=128, n_mels=32, norm=1)
    np.testing.assert_allclose(mel_bands(24_000, 128, 32), bands, rtol=1e-6)
    ours, theirs = (
        np.log10(np.maximum(np.asarray(magnitudes(jnp.asarray(x), 128)) @ bands.T, 1e-3))
        for x in (real, fake)
    )
    found = losses.log_mel_l1(real, fake, [128], jnp.asarray(0.5), 24_000)
    assert found == pytest.approx(2 * np.abs(ours - theirs).mean(), rel=1e-4)
    assert losses.log_mel_l1(real, real, [128], jnp.asarray(1.0), 24_000) == 0


def test_muon_moves_the_matrices_of_layers_and_adam_the_rest() -> None:
    params = nn.unbox(model_params(CONFIG, jax.random.key(0)))
    axes = muon_matrices(params)
    layer, table = axes["decoder"]["layers_0"], axes["decoder"]["mm_audio_embeddings"]
    assert layer["attention"]["wq"]["weight"] is not None
    assert layer["attention_norm"]["weight"] is None
    assert table["tok_embeddings"]["weight"] is None
    optimizer = make_optimizer(OptimizerSettings(kind="muon", learning_rate=0.1, clip_norm=1e9), 10)
    slopes = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape), params)
    moves, _ = optimizer.update(slopes, optimizer.init(params), params)
    move = np.asarray(moves["decoder"]["layers_0"]["feed_forward"]["w1"]["weight"])
    # Orthogonalised: all directions move about equally far.
    sizes = np.linalg.svd(move, compute_uv=False)
    assert sizes.max() < 3 * sizes.min()
    np.testing.assert_allclose(np.sqrt(np.mean(move**2)), 0.1 * 0.2, rtol=0.3)


def test_blanked_frames_are_empty_and_targets_stay(batch: SpeechBatch) -> None:
    blanked = blank_frames(jax.random.key(0), batch, 0.5)
    empty = (np.asarray(blanked.tokens) == EMPTY_AUDIO).all(axis=-1) & batch.audio
    assert 0.2 < empty.sum() / batch.audio.sum() < 0.8
    np.testing.assert_array_equal(
        np.asarray(blanked.tokens)[~empty], np.asarray(batch.tokens)[~empty]
    )
    np.testing.assert_array_equal(blanked.targets, batch.targets)
