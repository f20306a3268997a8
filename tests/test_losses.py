"""Every training loss equals its definition, and its gradient goes where it should."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from plain import losses as plain

from voxtral_jax.codec.quantizer import nearest
from voxtral_jax.decoder.model import Decoder, KVCache
from voxtral_jax.kernels.fsq import quantize
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import leaves
from voxtral_jax.sharding import make_mesh
from voxtral_jax.text import ByteTokenizer
from voxtral_jax.training import losses
from voxtral_jax.training.codec import codec_gradients, codec_loss, critic_losses, rebuild
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.layout import fill_row, lay_out, stack_rows
from voxtral_jax.training.data.targets import TargetSource, TargetWriter
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.discriminator import Discriminators, Kind, judge_both, valid_frames
from voxtral_jax.training.distillation import (
    STEPS_PER_FRAME,
    SYMBOLS,
    Characters,
    Nothing,
    Whisper,
    symbols,
)
from voxtral_jax.training.envelope import EnvelopeSettings, find_components
from voxtral_jax.training.preference import PreferenceBatch, PreferenceLosses, preference_loss
from voxtral_jax.training.quantization import (
    Codebook,
    QuantizerSettings,
    codebook_of,
    quantize_for_training,
    straight_through,
    update_codebook,
)
from voxtral_jax.training.recipe import CodecLosses, CodecTraining
from voxtral_jax.training.speaking import model_params
from voxtral_jax.training.spectrum import frame_count, magnitudes, stft
from voxtral_jax.training.speech import (
    FlowDraw,
    SpeechLosses,
    draw_all,
    draw_flow,
    place_losses,
    speech_loss,
)
from voxtral_jax.training.state import join, split

CONFIG = small.small_config()
FRAME = CONFIG.codec.frame_samples
STEP = jnp.zeros((), jnp.int32)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size", "samples"), [(16, 100), (126, 400), (334, 500), (76, 76)])
def test_the_stft_equals_its_definition(size: int, samples: int) -> None:
    x = noise(2, samples)
    ours = np.asarray(stft(x, size))
    expected = np.stack([plain.stft(row, size) for row in x])
    assert ours.shape[1] == frame_count(samples, size)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_white_noise_has_bins_of_power_one() -> None:
    power = np.abs(np.asarray(stft(noise(4, 20_000), 206))) ** 2
    assert power[:, 4:-4, 2:-2].mean() == pytest.approx(1, rel=0.05)


def test_magnitudes_of_silence_have_a_gradient() -> None:
    gradient = jax.grad(lambda x: jnp.sum(magnitudes(x, 76)))(jnp.zeros((1, 300)))
    assert np.all(np.asarray(gradient) == 0)


def test_distances_of_audio_equal_their_definitions() -> None:
    real, fake = noise(2, 300), noise(2, 300, seed=1)
    mask = (np.arange(300) < np.array([[300], [120]])).astype(np.float32)
    expected = np.abs(real - fake)[mask > 0].mean()
    assert losses.waveform_l1(real, fake, mask) == pytest.approx(expected, rel=1e-5)
    sizes = (76, 126)
    expected = plain.stft_l1(real * mask, fake * mask, sizes) / mask.mean()
    found = losses.stft_l1(real * mask, fake * mask, sizes, jnp.mean(mask))
    assert found == pytest.approx(expected, rel=1e-4)


def test_compressed_spectra_know_the_phase_and_hear_the_quiet() -> None:
    real, fake = noise(2, 300), noise(2, 300, seed=1)
    sizes = (76, 126)

    def root(x: np.ndarray, size: int) -> np.ndarray:
        spectra = np.stack([plain.stft(row, size) for row in x])
        return spectra / np.sqrt(np.abs(spectra))

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        each = [root(x, n) - root(y, n) for n in sizes]
        return float(np.mean([(np.abs(d.real).mean() + np.abs(d.imag).mean()) / 2 for d in each]))

    found = partial(losses.compressed_l1, sizes=sizes, share=jnp.float32(0.5))
    assert found(real, fake) == pytest.approx(2 * distance(real, fake), rel=1e-3)
    assert found(real, real) == 0
    assert found(real, -real) == pytest.approx(4 * distance(real, 0 * real + 1e-12), rel=1e-2)
    silence = jnp.zeros((1, 300))
    assert np.all(np.isfinite(np.asarray(jax.grad(found)(silence, noise(1, 300)))))


def test_what_has_no_weight_changes_nothing() -> None:
    values, weights = noise(3, 5), np.ones((3, 5), np.float32)
    weights[1] = 0
    spoilt = values.copy()
    spoilt[1] = np.nan
    mean = jax.value_and_grad(losses.weighted_mean)
    ours, gradient = mean(jnp.asarray(spoilt), weights)
    assert ours == pytest.approx(values[weights > 0].mean(), rel=1e-5)
    assert np.all(np.asarray(gradient)[1] == 0)
    assert losses.weighted_mean(values, 0 * weights) == 0


@pytest.mark.parametrize("kind", ["bins", "frames"])
def test_discriminators_judge_real_and_fake_alike(kind: Kind) -> None:
    discriminators = Discriminators(2, (126, 76), kind)
    real, fake = noise(2, 600), noise(2, 600, seed=1)
    params = jax.jit(discriminators.init)(jax.random.key(0), real)["params"]
    ours, theirs = judge_both(discriminators, params, real, fake)
    judge = jax.jit(partial(apply, discriminators))
    alone = judge(params, real), judge(params, fake)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), (ours, theirs), alone)

    features = [
        np.abs(np.asarray(a) - np.asarray(b)).mean()
        for (a_layers, _), (b_layers, _) in zip(*alone, strict=True)
        for a, b in zip(a_layers, b_layers, strict=True)
    ]
    assert losses.feature_matching(ours, theirs) == pytest.approx(np.mean(features), rel=1e-4)
    scores = [
        np.maximum(0, 1 - np.asarray(a)).mean() + np.maximum(0, 1 + np.asarray(b)).mean()
        for (_, a), (_, b) in zip(*alone, strict=True)
    ]
    assert losses.hinge(ours, theirs) == pytest.approx(np.mean(scores), rel=1e-4)
    fooled = [-np.asarray(scores).mean() for _, scores in alone[1]]
    assert losses.adversarial(theirs) == pytest.approx(np.mean(fooled), rel=1e-4)


@pytest.mark.parametrize("kind", ["bins", "frames"])
def test_frames_of_padding_are_not_judged(kind: Kind) -> None:
    windows = (126, 76)
    samples = (np.arange(600) < np.array([[600], [250], [0]])).astype(np.float32)
    real, fake = noise(3, 600) * samples, noise(3, 600, seed=1) * samples
    discriminators = Discriminators(2, windows, kind)
    params = jax.jit(discriminators.init)(jax.random.key(0), real)["params"]
    ours, theirs = judge_both(discriminators, params, real, fake)
    frames = valid_frames(windows, samples)
    for (_, scores), valid, window in zip(ours, frames, windows, strict=True):
        assert valid.shape == scores.shape[:2]
        assert valid[1].sum() == frame_count(250, window)

    def found(spoilt: bool) -> list[float]:
        def spoil(x: jax.Array, valid: np.ndarray, amount: float) -> jax.Array:
            counts = valid.reshape(*valid.shape, *[1] * (x.ndim - 2)) > 0
            return jnp.where(counts, x, amount) if spoilt else x

        judged = [
            [
                ([spoil(x, valid, amount) for x in features], spoil(scores, valid, amount))
                for (features, scores), valid in zip(one, frames, strict=True)
            ]
            for one, amount in ((ours, 7.0), (theirs, -5.0))
        ]
        return [
            float(losses.feature_matching(*judged, frames)),
            float(losses.hinge(*judged, frames)),
            float(losses.adversarial(judged[1], frames)),
        ]

    np.testing.assert_allclose(found(True), found(False), rtol=1e-5)
    nothing = [np.zeros_like(valid) for valid in frames]
    assert losses.hinge(ours, theirs, nothing) == 0
    scores = [
        np.mean(np.maximum(0, 1 - np.asarray(a))[valid > 0])
        + np.mean(np.maximum(0, 1 + np.asarray(b))[valid > 0])
        for (_, a), (_, b), valid in zip(ours, theirs, frames, strict=True)
    ]
    assert losses.hinge(ours, theirs, frames) == pytest.approx(np.mean(scores), rel=1e-4)


def test_commitment_pulls_latents_and_not_entries() -> None:
    latents, entries, mask = noise(2, 3, 4), noise(2, 3, 4, seed=1), np.ones((2, 3), np.float32)
    found = jax.grad(losses.commitment, argnums=(0, 1))(latents, entries, mask)
    expected = ((latents - entries) ** 2).mean()
    assert losses.commitment(latents, entries, mask) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(found[0], 2 * (latents - entries) / latents.size, rtol=1e-4)
    assert not np.any(found[1])


def test_token_cosine_equals_its_definition() -> None:
    projected, hidden = noise(2, 6, 5), noise(2, 4, 5, seed=1)
    alignment = np.abs(noise(2, 4, 6))
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    expected = plain.token_cosine(projected, hidden, alignment, mask)
    found = losses.token_cosine(projected, hidden, alignment, mask)
    assert found == pytest.approx(expected, rel=1e-4)
    assert losses.token_cosine(projected, hidden, alignment, 0 * mask) == 0


def test_cross_entropy_equals_its_definition() -> None:
    logits, tokens = noise(2, 3, 7), np.array([[0, 3, 6], [1, 1, 2]])
    weights = np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    each = [
        plain.negative_log(logits[b, m], tokens[b, m])
        for b in range(2)
        for m in range(3)
        if weights[b, m]
    ]
    found = losses.semantic_cross_entropy(logits, tokens, weights)
    assert found == pytest.approx(np.mean(each), rel=1e-5)


def test_the_flow_goes_straight_from_noise_to_data() -> None:
    data, start, sigma = noise(3, 4), noise(3, 4, seed=1), 1e-2
    for t in (0.0, 0.3, 1.0):
        state, velocity = losses.flow_path(data, start, jnp.full(3, t), sigma)
        np.testing.assert_allclose(state, (1 - (1 - sigma) * t) * start + t * data, atol=1e-5)
        np.testing.assert_allclose(velocity, data - (1 - sigma) * start, atol=1e-5)
    expected = [np.mean((a - b) ** 2) for a, b in zip(data, start, strict=True)]
    np.testing.assert_allclose(losses.flow_error(data, start), expected, rtol=1e-5)


def test_latents_of_no_weight_may_go_anywhere() -> None:
    data, start, weights = noise(3, 4), noise(3, 4, seed=1), (2.0, 0.0, 0.5, 0.5)
    expected = [np.dot((a - b) ** 2, weights) / 3 for a, b in zip(data, start, strict=True)]
    for bend in (0, 5):
        found = losses.flow_error(data, start + np.array([0, bend, 0, 0], np.float32), weights)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_preference_equals_its_definition() -> None:
    a, b, c, d = noise(4, 6)
    expected = -np.log(1 / (1 + np.exp(-0.5 * ((a - b) - (c - d)))))
    np.testing.assert_allclose(losses.preference(a, b, c, d, 0.5), expected, rtol=1e-5)


# The quantiser


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    x, rounded = noise(5), noise(5, seed=1)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(straight_through(x, rounded) ** 2))(x)
    assert value == pytest.approx(np.sum(rounded**2), rel=1e-5)
    np.testing.assert_allclose(gradient, 2 * rounded, rtol=1e-5)


def test_modes_are_drawn_per_sample_with_their_probabilities() -> None:
    codec, settings, rows = CONFIG.codec, QuantizerSettings(), 4000
    latents = noise(rows, 3, codec.latent_dim)
    table = noise(codec.semantic_codebook_size, codec.semantic_dim, seed=1)
    codes = nearest(latents[..., : codec.semantic_dim], table)
    made = quantize_for_training(latents, codes, table, codec, settings, jax.random.key(0))
    semantic, acoustic = np.split(np.asarray(made.latents), [codec.semantic_dim], axis=-1)
    raw_semantic, raw = np.split(latents, [codec.semantic_dim], axis=-1)
    distances = ((raw_semantic[:, :, None] - table) ** 2).sum(-1)
    np.testing.assert_array_equal(made.codes, distances.argmin(-1))

    passed = np.isclose(semantic, raw_semantic, atol=1e-6).all(axis=(1, 2))
    chosen = np.isclose(semantic, table[np.asarray(made.codes)], atol=1e-5).all(axis=(1, 2))
    assert np.all(passed ^ chosen)
    bounded = np.tanh(raw)
    _, values = quantize(jnp.asarray(raw), codec.acoustic_codebook_size, "jnp")
    rounded = np.isclose(acoustic, values, atol=1e-5).all(axis=(1, 2))
    untouched = np.isclose(acoustic, bounded, atol=1e-6).all(axis=(1, 2))
    noisy = ~rounded & ~untouched
    half = 1 / (codec.acoustic_codebook_size - 1)
    added = (acoustic - bounded)[noisy]
    assert np.abs(added).max() <= half + 1e-6
    assert np.abs(added).max() > 0.95 * half
    for found, share in ((chosen, 0.5), (rounded, 0.5), (noisy, 0.25), (untouched, 0.25)):
        deviation = 4 * np.sqrt(share * (1 - share) / rows)
        assert abs(found.mean() - share) < deviation


@pytest.mark.parametrize("semantic", [0.0, 1.0])
@pytest.mark.parametrize("acoustic", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_gradients_pass_the_quantiser_in_every_mode(semantic: float, acoustic) -> None:
    codec = CONFIG.codec
    settings = QuantizerSettings(
        semantic_share=semantic, acoustic_share=acoustic[0], noise_share=acoustic[1]
    )
    latents, table = noise(2, 3, codec.latent_dim), noise(32, codec.semantic_dim, seed=1)

    def total(latents: jax.Array, table: jax.Array) -> jax.Array:
        codes = jnp.zeros(latents.shape[:2], int)
        made = quantize_for_training(latents, codes, table, codec, settings, jax.random.key(0))
        return jnp.sum(made.latents)

    to_latents, to_table = jax.grad(total, argnums=(0, 1))(latents, table)
    expected = np.ones_like(latents)
    expected[..., codec.semantic_dim :] = 1 - np.tanh(latents[..., codec.semantic_dim :]) ** 2
    np.testing.assert_allclose(to_latents, expected, rtol=1e-4)
    assert not np.any(to_table)


def some_codebook() -> tuple[Codebook, np.ndarray, np.ndarray, np.ndarray]:
    """A codebook, and latents `[8, 5, 8]` with codes and mask."""
    codebook = Codebook(jnp.asarray(noise(32, 8)), jnp.asarray(1 + np.abs(noise(32))))
    random = np.random.default_rng(0)
    mask = (random.random((8, 5)) < 0.7).astype(np.float32)
    return codebook, noise(8, 5, 8, seed=2), random.integers(0, 6, (8, 5)).astype(np.int32), mask


def test_the_codebook_moves_as_its_definition_says() -> None:
    codebook, latents, codes, mask = some_codebook()
    settings = QuantizerSettings(decay=0.9, least_usage=0.0)
    moved, metrics = update_codebook(
        codebook, latents, codes, mask, settings, jnp.int32(1), jax.random.key(0)
    )
    total, usage = plain.moved_codebook(
        np.asarray(codebook.embedding_sum),
        np.asarray(codebook.cluster_usage),
        latents,
        codes,
        mask,
        0.9,
    )
    np.testing.assert_allclose(moved.embedding_sum, total, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved.cluster_usage, usage, rtol=1e-5)
    share = usage / usage.sum()
    assert metrics["perplexity"] == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-4)
    assert metrics["usage"] == len(set(codes[mask > 0])) / 32


def test_dead_entries_become_latents_of_the_batch() -> None:
    codebook, latents, codes, mask = some_codebook()
    few = Codebook(codebook.embedding_sum, codebook.cluster_usage.at[10:].set(0.0))
    settings = QuantizerSettings(restart_every=5)
    update = partial(update_codebook, few, latents, codes, mask, settings)
    valid = latents[mask > 0]

    def from_batch(moved: Codebook) -> np.ndarray:
        apart = np.abs(np.asarray(moved.table)[:, None] - valid).max(axis=-1)
        return apart.min(axis=1) < 1e-4

    undisturbed, _ = update(jnp.int32(3), jax.random.key(0))
    assert not from_batch(undisturbed).any()
    restarted, _ = update(jnp.int32(4), jax.random.key(0))
    assert from_batch(restarted)[10:].all()
    assert not from_batch(restarted)[:10].any()


def test_a_random_codebook_is_taken_from_the_first_batch_and_a_trained_one_kept() -> None:
    codebook, latents, codes, mask = some_codebook()
    random = codebook.replace(cluster_usage=jnp.ones(32))
    settings = QuantizerSettings()
    move = partial(update_codebook, settings=settings, step=jnp.int32(0), key=jax.random.key(0))
    valid = latents[mask > 0]
    taken, _ = move(random, latents, codes, mask)
    apart = np.abs(np.asarray(taken.table)[:, None] - valid).max(axis=-1)
    assert (apart.min(axis=1) < 1e-4).all()
    kept, _ = move(codebook, latents, codes, mask)
    unused = np.setdiff1d(np.arange(32), codes)
    np.testing.assert_allclose(kept.table[unused], codebook.table[unused], rtol=1e-5)


def test_the_codebook_moves_the_same_on_a_mesh() -> None:
    codebook, latents, codes, mask = some_codebook()
    rows = jax.NamedSharding(make_mesh(data=8), jax.P("data"))
    update = jax.jit(partial(update_codebook, settings=QuantizerSettings(restart_every=1)))
    arguments = {"step": jnp.int32(4), "key": jax.random.key(1)}
    alone, _ = update(codebook, latents, codes, mask, **arguments)
    shared, _ = update(codebook, *jax.device_put((latents, codes, mask), rows), **arguments)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), shared, alone)


# The codec's step


def codec_world() -> tuple[CodecTraining, dict, dict, CropBatch]:
    training = CodecTraining(
        config=CONFIG.codec,
        losses=CodecLosses(stft_windows=(126,), adversarial=0.5),
        quantizer=QuantizerSettings(),
        discriminators=Discriminators(2, (76,)),
        distillation=Nothing(),
    )
    params, frozen = split(small.random_weights(training), training.trained)
    lengths = np.array([2 * 1920, 1920 + 700], np.int32)
    samples = 0.1 * noise(2, 2 * 1920) * (np.arange(2 * 1920) < lengths[:, None])
    return training, params, frozen, CropBatch(samples, lengths, np.arange(2), {})


def test_one_step_has_the_gradients_of_all_losses() -> None:
    training, params, frozen, batch = codec_world()
    key = jax.random.key(3)
    found = jax.jit(partial(codec_gradients, training, "all"))(params, frozen, batch, key, STEP)
    # Keeping nothing for the backward pass must not change it either.
    loss = partial(codec_loss, training, "none")
    expected = jax.jit(jax.grad(lambda p: loss(p, frozen, batch, key, STEP)[0]))(params)
    for (path, ours), (_, theirs) in zip(leaves(found.params), leaves(expected), strict=True):
        if path[0] == "critic":
            assert not np.any(theirs)
            assert np.any(ours)
        else:
            scale = np.abs(theirs).max() + 1e-6
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-4)
    make = jax.jit(partial(rebuild, training, keep="all"))
    made = make(join(params, frozen), batch, jax.random.fold_in(key, 0))
    assert not np.any(np.asarray(made.fake)[1, batch.lengths[1] :])
    semantic = np.asarray(made.encoded.latents)[..., : training.config.semantic_dim]
    distances = ((semantic[:, :, None] - codebook_of(frozen).table) ** 2).sum(-1)
    np.testing.assert_array_equal(made.quantized.codes, distances.argmin(-1))
    hinge = jax.jit(
        jax.grad(
            lambda critic: critic_losses(training, critic, made.real, made.fake, made.samples)[0][1]
        )
    )
    for ours, theirs in zip(
        jax.tree.leaves(found.params["critic"]),
        jax.tree.leaves(hinge(params["critic"])),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-7)
    assert np.any(codebook_of(found.frozen).table != codebook_of(frozen).table)


def test_exact_rows_and_modes_are_drawn_apart() -> None:
    training, *_ = codec_world()
    training = replace(
        training,
        quantizer=QuantizerSettings(acoustic_share=0.5, noise_share=0.0),
        discriminators=None,
        envelope=EnvelopeSettings(weight=1.0, exact_share=0.5),
    )
    samples = 0.1 * noise(24, FRAME)
    batch = CropBatch(samples, np.full(24, FRAME, np.int32), np.arange(24), {})
    weights = small.random_weights(training)
    weights["envelope"] = find_components([batch], CONFIG.codec)
    made = jax.jit(partial(rebuild, training, keep="all"))(weights, batch, jax.random.key(0))
    heard, latents, decoded = (
        np.asarray(x)[..., CONFIG.codec.semantic_dim :]
        for x in (made.encoded.heard, made.encoded.latents, made.quantized.latents)
    )
    exact = np.any(heard != latents, axis=(1, 2))
    rounded = np.any(np.abs(decoded - np.tanh(heard)) > 1e-4, axis=(1, 2))
    # Two fair coins for each row: all four pairs come up.
    assert len(set(zip(exact.tolist(), rounded.tolist(), strict=True))) == 4


# Distillation


def utterance(text: str = "", phonemes: str | None = None) -> Utterance:
    return Utterance(
        key="a", audio="a", texts=(text,), language="en", speaker="s", phonemes=phonemes
    )


def test_symbols_are_bare_lower_case_or_phonemes() -> None:
    assert symbols(utterance("Well, HELLO – World!")) == b"well hello world"
    assert symbols(utterance("Well", "wɛl")) == "wɛl".encode()


def test_characters_equal_plain_ctc() -> None:
    teacher = Characters(frame_samples=1920, crop_frames=3)
    said = [utterance("ab"), utterance("aab"), utterance("b"), utterance("no room for all of it")]
    frames = [3, 3, 2, 3]
    rows = [
        teacher.targets(one, 0, 1920 * count, True) for one, count in zip(said, frames, strict=True)
    ]
    rows.append(teacher.targets(said[0], 0, 1920 * 3, False))
    assert [int(row["count"]) for row in rows] == [2, 3, 1, 0, 0]
    targets = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    params = {"weight": noise(SYMBOLS * STEPS_PER_FRAME, 8)}
    semantic = noise(5, 3, 8, seed=1)
    mask = np.ones((5, 3), np.float32)
    mask[2, 2] = 0
    found, metrics = teacher.loss(params, semantic, mask, targets)
    logits = np.einsum("btc,oc->bto", semantic, params["weight"]).reshape(5, -1, SYMBOLS)
    each = [
        plain.ctc(logits[i, : frames[i] * STEPS_PER_FRAME], list(targets["labels"][i][:n]))
        / (frames[i] * STEPS_PER_FRAME)
        for i, n in enumerate([2, 3, 1])
    ]
    assert found == pytest.approx(np.mean(each), rel=1e-4)
    assert metrics["distillation_rows"] == 3


def test_whispers_tokens_count_where_they_lie_within_the_crop(tmp_path) -> None:
    alignment = np.zeros((3, 10), np.float32)
    alignment[0, 0:3], alignment[1, 3:6], alignment[2, 5:10] = 1, 1, 1
    with TargetWriter(tmp_path) as writer:
        writer.write("a", noise(3, 6), alignment)
    teacher = Whisper(TargetSource(tmp_path), 6, frame_samples=1920, crop_frames=4)
    made = teacher.targets(utterance(), 3 * 1920, 4 * 1920, False)
    assert made["mask"].sum() == 1
    np.testing.assert_allclose(made["hidden"][0], noise(3, 6)[1], atol=1e-2)
    np.testing.assert_array_equal(made["alignment"][0], [1, 1, 1, 0])
    assert teacher.targets(utterance(), 0, 0, False)["mask"].sum() == 0


# Speech


@pytest.fixture(scope="module")
def speaker() -> dict:
    return nn.meta.unbox(model_params(CONFIG, jax.random.key(0)))


def sequence(text: str, voice: int, frames: int):
    random = np.random.default_rng(frames)
    sizes = [32, 21, 21, 21, 21]
    codes = [random.integers(0, sizes, (count, 5)) for count in (voice, frames)]
    return lay_out(CONFIG, ByteTokenizer(), text, *codes)


SEQUENCES = [sequence("One.", 3, 5), sequence("Two two.", 6, 4)]


def batch_of(*rows, tokens: int = 64, targets: int = 16):
    return stack_rows([fill_row(row, CONFIG, tokens, targets) for row in rows])


@partial(jax.jit, static_argnames="keep")
def run_places(params, batch, draw, keep: str = "all"):
    return place_losses(params, CONFIG, batch, draw, keep)


def fixed_draw(batch, dropped: bool = False) -> FlowDraw:
    places = (1, *batch.targets.shape[:2])
    count = int(np.prod(places))
    return FlowDraw(
        noise=jnp.asarray(noise(count, 4)).reshape(*places, 4),
        t=jnp.linspace(0, 0.9, count).reshape(places),
        dropped=jnp.full(places, dropped),
    )


def test_packing_and_padding_change_nothing(speaker) -> None:
    packed, alone = batch_of(SEQUENCES, []), batch_of(*[[one] for one in SEQUENCES], tokens=40)
    counts = [len(one.targets) for one in SEQUENCES]
    draw = fixed_draw(packed)
    spread = FlowDraw(
        *(jnp.zeros((1, 2, 16, *x.shape[3:]), x.dtype) for x in (draw.noise, draw.t, draw.dropped))
    )
    first = 0
    for row, count in enumerate(counts):
        spread = jax.tree.map(
            lambda a, b, row=row, count=count, first=first: a.at[0, row, :count].set(
                b[0, 0, first : first + count]
            ),
            spread,
            draw,
        )
        first += count
    together = run_places(speaker, packed, draw)
    apart = run_places(speaker, alone, spread, "none")
    for ours, theirs in ((together.semantic, apart.semantic), (together.flow, apart.flow)):
        expected = np.concatenate([np.asarray(theirs)[i, :n] for i, n in enumerate(counts)])
        np.testing.assert_allclose(np.asarray(ours)[0, : sum(counts)], expected, rtol=1e-4)


def test_training_sees_what_the_cached_decoder_sees(speaker) -> None:
    batch = batch_of([SEQUENCES[0]], tokens=len(SEQUENCES[0].ids))
    decoder, params = Decoder(CONFIG), speaker["decoder"]
    tokens = batch.tokens.astype(np.int32)
    x = apply(decoder, params, batch.ids, tokens, batch.audio, method="embed_packed")
    frames = apply(decoder, params, tokens, method="embed_audio")
    text = apply(decoder, params, batch.ids, method="embed_text")
    np.testing.assert_allclose(x, np.where(batch.audio[..., None], frames, text), atol=1e-6)
    count = batch.ids.shape[1]
    hidden, _ = apply(decoder, params, x, batch.positions, batch.segments, method="hidden")
    cache = KVCache.empty(CONFIG, 1, count, x.dtype)
    cached, _ = apply(decoder, params, x, batch.positions, cache, count, method="extend")
    np.testing.assert_allclose(hidden, cached, atol=1e-5)


def test_blank_frames_and_times_are_drawn_apart() -> None:
    batch = batch_of(*[SEQUENCES] * 40)
    batch = replace(batch, audio=np.ones_like(batch.audio), tokens=np.ones_like(batch.tokens))
    settings = SpeechLosses(frame_dropout=0.3)
    draw, blanked = draw_all(jax.random.key(0), batch, settings)
    early = np.asarray(draw.t).ravel() < 0.3
    blank = np.any(np.asarray(blanked.tokens) != 1, axis=-1).ravel()[: early.size]
    assert abs(np.mean(blank) - 0.3) < 0.08
    assert abs(np.mean(blank == early) - (0.3**2 + 0.7**2)) < 0.08


def test_several_draws_are_averaged(speaker) -> None:
    batch = batch_of(SEQUENCES)
    three = draw_flow(jax.random.key(0), batch, 0.3, 3)
    each = [jax.tree.map(lambda x, i=i: x[i : i + 1], three) for i in range(3)]
    apart = [run_places(speaker, batch, draw).flow for draw in each]
    together = run_places(speaker, batch, three).flow
    np.testing.assert_allclose(together, np.mean(apart, axis=0), rtol=1e-5)
    assert np.ptp(apart, axis=0).max() > 0.1


def test_a_dropped_condition_is_a_zero_condition(speaker) -> None:
    batch = batch_of(SEQUENCES)
    blind = jax.tree.map(jnp.copy, speaker)
    blind["flow"]["llm_projection"]["weight"] *= 0
    dropped = run_places(speaker, batch, fixed_draw(batch, dropped=True))
    unseen = run_places(blind, batch, fixed_draw(batch))
    np.testing.assert_allclose(dropped.flow, unseen.flow, rtol=1e-5)
    share = draw_flow(jax.random.key(0), batch_of(*[SEQUENCES] * 60), 0.1).dropped.mean()
    assert share == pytest.approx(0.1, abs=0.04)


def test_gradients_reach_only_what_was_used(speaker) -> None:
    batch = batch_of(SEQUENCES)
    settings = SpeechLosses(dtype="float32")
    loss = partial(speech_loss, CONFIG, settings, "all")
    found = jax.jit(jax.grad(lambda params: loss(params, {}, batch, jax.random.key(0), STEP)[0]))(
        speaker
    )
    text = np.asarray(found["decoder"]["mm_audio_embeddings"]["tok_embeddings"]["weight"])
    used = np.unique(batch.ids[(batch.segments > 0) & ~batch.audio])
    assert np.any(text[used], axis=1).all()
    assert not np.any(np.delete(text, used, axis=0))
    for path, leaf in leaves(found):
        assert np.any(leaf), path


# Preferences


def test_preferences_start_at_log_two_and_fall_with_the_margin(speaker) -> None:
    batch = PreferenceBatch(batch_of([SEQUENCES[0]]), batch_of([SEQUENCES[1]]))
    settings = PreferenceLosses(dtype="float32")
    loss = jax.jit(
        lambda params: preference_loss(
            CONFIG, settings, "all", params, {"reference": speaker}, batch, jax.random.key(0), STEP
        )
    )
    total, metrics = loss(speaker)
    assert metrics["semantic_dpo"] == pytest.approx(np.log(2), rel=1e-5)
    assert metrics["flow_dpo"] == pytest.approx(np.log(2), rel=1e-5)
    expected = 2 * np.log(2) + float(metrics["semantic"]) + float(metrics["flow"])
    assert total == pytest.approx(expected, rel=1e-5)
    step = jax.jit(jax.grad(lambda params: loss(params)[0]))(speaker)
    better = optax.apply_updates(speaker, jax.tree.map(lambda g: -1e-3 * g, step))
    after, moved = loss(better)
    assert after < total
    assert moved["semantic_margin"] > 0
    # By definition, from the likelihoods of whole samples.
    draw = draw_flow(jax.random.key(0), batch.winners, 0.0)

    def likelihood(params, side):
        found = run_places(params, side, draw)
        return -float(jnp.sum(found.semantic * side.semantic_weights))

    margin = (likelihood(better, batch.winners) - likelihood(speaker, batch.winners)) - (
        likelihood(better, batch.losers) - likelihood(speaker, batch.losers)
    )
    assert moved["semantic_margin"] == pytest.approx(margin, rel=1e-2)
    assert moved["semantic_dpo"] == pytest.approx(
        np.log1p(np.exp(-settings.semantic_beta * margin)), rel=1e-4
    )


def test_preferences_weigh_the_latents(speaker) -> None:
    batch = PreferenceBatch(batch_of([SEQUENCES[0]]), batch_of([SEQUENCES[1]]))
    settings = PreferenceLosses(dtype="float32", latent_weights=(0.0, 0.0, 2.0, 0.0))
    bent = jax.tree.map(lambda leaf: leaf * 1.01 if leaf.ndim > 1 else leaf, speaker)
    key = jax.random.key(0)
    _, metrics = preference_loss(
        CONFIG, settings, "all", bent, {"reference": speaker}, batch, key, STEP
    )
    draw = draw_flow(key, batch.winners, 0.0)

    def errors(params, side):
        found = place_losses(
            params, CONFIG, side, draw, "all", latent_weights=settings.latent_weights
        )
        return float(jnp.sum(found.flow * side.flow_weights))

    won, lost = errors(bent, batch.winners), errors(bent, batch.losers)
    margin = (errors(speaker, batch.winners) - won) - (errors(speaker, batch.losers) - lost)
    assert metrics["flow_dpo"] == pytest.approx(
        np.log1p(np.exp(-settings.flow_beta * margin)), rel=1e-4
    )
    assert metrics["flow"] == pytest.approx(won / float(batch.winners.flow_weights.sum()), rel=1e-4)
