"""Envelopes that acoustic latents are taught: spectra, components, the encoder's start."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import codec_table, random_weights, small_config, write_recordings

from voxtral_jax import VoxtralConfig
from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, save_params
from voxtral_jax.codec.model import Codec, encoder_places, open_stream
from voxtral_jax.errors import CheckpointError, ConfigError, DataError
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params, init_params, leaves
from voxtral_jax.training.codec import codec_gradients, codec_loss
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.distillation import Nothing
from voxtral_jax.training.envelope import (
    BOUND,
    HOPS_PER_PATCH,
    EnvelopeSettings,
    components_of,
    early_loss,
    early_places,
    envelope_loss,
    envelopes,
    find_components,
    init_early,
    no_components,
    read_components,
    smooth_bands,
)
from voxtral_jax.training.filterbank import as_filterbank, filter_weights, filterbank
from voxtral_jax.training.pitch import LATENTS
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.recipe import CodecLosses, CodecTraining
from voxtral_jax.training.settings import build_settings, load_settings
from voxtral_jax.training.sources import source_config
from voxtral_jax.training.spectrum import log_mel, mel_bands
from voxtral_jax.training.stages.codec import codec_task
from voxtral_jax.training.stages.codec_settings import CodecSettings
from voxtral_jax.training.stages.dpo import DpoSettings
from voxtral_jax.training.stages.speech import SpeechSettings
from voxtral_jax.training.state import split

ROOT = Path(__file__).parents[1]
SMALL = small_config().codec
FRAME = SMALL.frame_samples
STEP = jnp.int32(0)


def noise(seed: int, rows: int, frames: int) -> np.ndarray:
    """Noise whose level changes from frame to frame and row to row."""
    rng = np.random.default_rng(seed)
    loud = 10 ** rng.uniform(-2, 0, (rows, frames, 1))
    return (0.3 * loud * rng.standard_normal((rows, frames, FRAME))).reshape(rows, -1).astype("f4")


def batch_of(samples: np.ndarray) -> CropBatch:
    rows = len(samples)
    return CropBatch(samples, np.full(rows, samples.shape[1], np.int32), np.arange(rows), {})


def test_an_envelope_is_the_smooth_log_mel_spectrum_every_five_milliseconds() -> None:
    audio = noise(0, 1, 3)
    made = np.asarray(envelopes(audio, SMALL)).reshape(3 * 16, -1)
    spectrum = np.abs(
        librosa.stft(audio[0], n_fft=512, hop_length=120, window="hann", pad_mode="constant")
    )
    hann = np.hanning(513)[:-1]
    power = smooth_bands(24000) @ spectrum[:, : 3 * 16] ** 2 / np.sum(hann**2)
    np.testing.assert_allclose(made, np.log10(np.maximum(power, 1e-6)).T / 2, atol=1e-3)


def test_bands_average_over_250_hz_so_that_harmonics_leave_no_trace() -> None:
    bands = smooth_bands(24000)
    np.testing.assert_allclose(bands.sum(axis=1), 1, rtol=1e-5)
    # Power at one bin counts alike within 125 Hz of it, and nowhere beyond.
    one = np.eye(257)[100] @ bands.T
    near = np.abs(np.arange(257) - 100) * 24000 / 512 < 125
    np.testing.assert_allclose(
        one, mel_bands(24000, 512, 64)[:, near].sum(axis=1) / 5.33, atol=0.02
    )
    time = np.arange(2 * FRAME) / 24000
    hum = sum(np.cos(2 * np.pi * 250 * n * time) for n in range(1, 40)).astype("f4")[None] / 40

    def ripple(logs: np.ndarray) -> float:
        bands = logs.shape[-1]
        return float(np.ptp(logs[0, 4:28, bands // 8 : bands // 3], axis=-1).max())

    smooth = ripple(np.asarray(envelopes(hum, SMALL)).reshape(1, 32, -1))
    assert smooth < 0.1 < 0.5 < ripple(np.asarray(log_mel(hum, 512, 24000, 120)))


def test_components_hold_envelopes_better_than_their_mean_and_the_same_each_time() -> None:
    batches = [batch_of(noise(seed, 4, 6)) for seed in range(3)]
    found = find_components(batches, SMALL)
    again = find_components(batches, SMALL)
    assert found["basis"].shape == (SMALL.acoustic_dim, 16 * 64)
    for name in found:
        np.testing.assert_array_equal(found[name], again[name])
    made = np.asarray(envelopes(noise(9, 4, 6), SMALL))
    exact = np.asarray(components_of(made, found))
    assert np.abs(exact).max() <= BOUND
    apart = np.abs(exact @ found["basis"] + found["mean"] - made).mean()
    assert apart < 0.6 * np.abs(made - found["mean"]).mean()


def test_components_need_not_be_at_right_angles() -> None:
    found = no_components(SMALL) | {"mean": noise(0, 1, 1)[0, :1024]}
    found["basis"] = np.random.default_rng(1).standard_normal((SMALL.acoustic_dim, 1024))
    found["basis"][-1] = 0
    latents = np.random.default_rng(2).uniform(-0.9, 0.9, (2, 3, SMALL.acoustic_dim)).astype("f4")
    latents[..., -1] = 0
    made = latents @ found["basis"] + found["mean"]
    np.testing.assert_allclose(components_of(made, found), latents, atol=1e-4)


def test_latents_keep_the_meaning_that_a_file_gives_them(tmp_path: Path) -> None:
    small_config().save(tmp_path / "params.json")
    table = codec_table(
        tmp_path / "params.json", write_recordings(tmp_path / "audio"), tmp_path / "run", 1
    )
    file = tmp_path / "components.safetensors"
    table["envelope"] = {"weight": 1.0, "components": str(file)}
    task = codec_task(build_settings(CodecSettings, table, "a test"))
    with pytest.raises(CheckpointError, match=r"components\.safetensors does not exist"):
        task.start(None)  # type: ignore[arg-type]
    save_file({"mean": np.zeros(1024, "f4"), "basis": np.zeros((2, 1024), "f4")}, file)
    with pytest.raises(CheckpointError, match=r"expected 'basis' of shape \[4, 1024\]"):
        task.start(None)  # type: ignore[arg-type]
    basis = np.random.default_rng(0).standard_normal((4, 1024)).astype("f4")
    save_file({"mean": np.ones(1024, "f4"), "basis": basis}, file)
    started = task.start(None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(started["envelope", "basis"], basis)
    np.testing.assert_array_equal(started["envelope", "mean"], 1)


def test_frames_after_the_end_of_a_recording_are_not_looked_at() -> None:
    whole = noise(1, 4, 6)
    short = batch_of(np.concatenate([whole, noise(2, 4, 6)], axis=1))
    short = replace(short, lengths=np.full(4, 6 * FRAME, np.int32))
    ours, theirs = find_components([short], SMALL), find_components([batch_of(whole)], SMALL)
    # Only the last spectra of the sixth frame look into the seventh.
    np.testing.assert_allclose(ours["mean"][: 13 * 64], theirs["mean"][: 13 * 64], atol=1e-5)


def test_exact_latents_are_as_good_as_components_can_be_and_saturated_ones_get_gradients() -> None:
    found = find_components([batch_of(noise(3, 8, 6))], SMALL)
    made = envelopes(noise(4, 2, 6), SMALL)
    exact = components_of(made, found)
    mask = jnp.ones(exact.shape[:2])
    loss = partial(envelope_loss, made=made, exact=exact, components=found, mask=mask)
    best = loss(jnp.arctanh(exact))
    np.testing.assert_allclose(
        best, jnp.mean(jnp.abs(exact @ found["basis"] + found["mean"] - made)), rtol=1e-4
    )
    saturated = jnp.full_like(exact, 30.0)
    assert loss(saturated) > best
    assert np.all(np.asarray(jax.grad(loss)(saturated)) > 0)


@pytest.mark.parametrize("name", ["nano", "voxtral-4b"])
def test_filters_answer_to_their_own_frequencies(name: str) -> None:
    codec = source_config(f"configs/{name}/params.json").codec
    bank = filterbank(codec)
    assert bank.shape == (codec.dim, codec.patch_proj_kernel_size * codec.pretransform_patch_size)
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, rtol=1e-5)
    peaks = np.abs(np.fft.rfft(bank, 8 * 2048)).argmax(axis=1) * codec.sampling_rate / (8 * 2048)
    pairs = peaks[: codec.dim // 2 * 2].reshape(-1, 2).mean(axis=1)
    assert np.all(np.diff(pairs[8:]) > 0)
    assert pairs[0] < 200
    assert 9_000 < pairs[-1] < 12_000


def test_the_encoder_starts_as_the_filterbank() -> None:
    codec = source_config("configs/nano/params.json").codec
    random = jax.jit(Codec(codec).init)(
        jax.random.key(0), jnp.zeros((1, 8, 240)), jnp.full((1,), 8)
    )
    params = nn.meta.unbox(as_filterbank(random["params"], codec))
    place = encoder_places(codec)[0]
    audio = noise(5, 1, 2)
    state = open_stream(encoder_places(codec), 1).blocks[0]
    steps = audio.shape[1] // 240
    zero, all_of_them = jnp.zeros(1, jnp.int32), jnp.full((1,), steps)
    got, _ = apply(
        place.block, params["input_proj"], audio.reshape(1, -1, 240), state, zero, all_of_them
    )
    bank = filterbank(codec)
    hertz = librosa.mel_frequencies(codec.dim // 2 + 2, fmin=40, fmax=0.48 * 24_000)[1:-1]
    gains = np.repeat(0.3 * (1 + hertz / 200) ** 1.2, 2)
    for step in (6, steps - 1):
        window = audio[0, (step + 1) * 240 - bank.shape[1] : (step + 1) * 240]
        np.testing.assert_allclose(got[0, step], gains * (bank @ window), rtol=1e-3, atol=1e-4)


def test_the_first_feed_forwards_start_with_powers_and_their_logarithms() -> None:
    codec = source_config("configs/nano/params.json").codec
    random = jax.jit(Codec(codec).init)(
        jax.random.key(0), jnp.zeros((1, 8, 240)), jnp.full((1,), 8)
    )
    first = nn.meta.unbox(as_filterbank(random["params"], codec))["encoder_blocks_0"]
    units = 2 * codec.dim

    def started(layer: str, heard: np.ndarray) -> np.ndarray:
        """What the units that are not random add to both filters of each pair."""
        w1, w2, w3 = (first[layer]["feed_forward"][name]["weight"] for name in ("w1", "w2", "w3"))
        inner = jax.nn.silu(heard @ w1[:units].T) * (heard @ w3[:units].T)
        pairs = (inner @ w2[:, :units].T).reshape(len(heard), -1, 2)
        np.testing.assert_allclose(pairs[..., 0], pairs[..., 1], rtol=1e-3, atol=1e-3)
        return np.asarray(pairs[..., 0])

    filters = np.random.default_rng(0).normal(size=(3, codec.dim)).astype(np.float32)
    powers = np.sum(filters.reshape(3, -1, 2) ** 2, axis=-1)
    np.testing.assert_allclose(started("layers_0", filters), 3 * powers, rtol=1e-3, atol=1e-3)

    # One pair is of each loudness, while the mean of all powers is 1.
    heard = np.ones((4, codec.dim), np.float32)
    heard[:, :2] = np.array([0.01, 0.1, 1, 8])[:, None]
    heard[:, 2:] = (codec.dim - heard[:, :2].sum(axis=1))[:, None] / (codec.dim - 2)
    steps = np.diff(started("layers_1", heard)[:, 0])
    assert np.all(steps > 0)
    assert steps.max() < 1.5 * steps.min()


def test_a_step_teaches_the_encoder_and_leaves_the_components_alone() -> None:
    training = CodecTraining(
        config=SMALL,
        losses=CodecLosses(feature_matching=0.0, stft_windows=(126,)),
        quantizer=QuantizerSettings(),
        discriminators=None,
        distillation=Nothing(),
        envelope=EnvelopeSettings(weight=2.0, exact_share=0.5),
    )
    params, frozen = split(random_weights(training), training.trained)
    assert set(frozen) == {"codec", "envelope"}
    frozen["envelope"] = find_components([batch_of(noise(6, 8, 6))], SMALL)
    batch, key = batch_of(noise(7, 2, 2)), jax.random.key(1)
    found = jax.jit(partial(codec_gradients, training, "all"))(params, frozen, batch, key, STEP)
    loss = partial(codec_loss, training, "none", frozen=frozen, batch=batch, key=key, step=STEP)
    (value, metrics), expected = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(found.loss, value, rtol=1e-4)
    np.testing.assert_allclose(found.metrics["envelope"], metrics["envelope"], rtol=1e-4)
    for (_, ours), (_, theirs) in zip(leaves(found.params), leaves(expected), strict=True):
        scale = np.abs(theirs).max() + 1e-6
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-3)
    for name, leaf in frozen["envelope"].items():
        np.testing.assert_array_equal(found.frozen["envelope"][name], leaf)


def test_rows_decoded_from_exact_components_do_not_depend_on_the_acoustic_latents() -> None:
    def gradient_of_last_conv(share: float) -> float:
        training = CodecTraining(
            config=SMALL,
            losses=CodecLosses(
                feature_matching=0.0, distillation=0.0, commitment=0.0, stft_windows=(126,)
            ),
            quantizer=QuantizerSettings(semantic_share=1.0, acoustic_share=0.0),
            discriminators=None,
            distillation=Nothing(),
            envelope=EnvelopeSettings(weight=1e-12, exact_share=share),
        )
        params, frozen = split(random_weights(training), training.trained)
        frozen["envelope"] = find_components([batch_of(noise(6, 8, 6))], SMALL)
        batch, key = batch_of(noise(7, 2, 2)), jax.random.key(1)
        loss = partial(codec_loss, training, "all", frozen=frozen, batch=batch, key=key, step=STEP)
        gradients, _ = jax.jit(jax.grad(loss, has_aux=True))(params)
        final = f"encoder_blocks_{2 * len(SMALL.encoder_stages) - 1}"
        found = [leaf for path, leaf in leaves(gradients["codec"][final])]
        return max(float(np.abs(leaf[SMALL.semantic_dim :]).max()) for leaf in found)

    assert gradient_of_last_conv(1.0) < 1e-9 < gradient_of_last_conv(0.0)


def test_early_heads_hear_the_spectra_of_their_own_steps() -> None:
    made = jnp.asarray(envelopes(noise(3, 2, 3), SMALL))
    places, mask = early_places(SMALL), jnp.ones((2, 3))
    assert all(place.rate > 1 for place in places.values())
    heads, components = init_early(SMALL), no_components(SMALL)
    single = made.reshape(2, 3 * SMALL.stride * HOPS_PER_PATCH, -1)
    ended = jnp.concatenate([single[:, :1], single[:, :-1]], axis=1).reshape(made.shape)
    # Blocks that give the spectra themselves, and heads that say what the blocks give.
    given: list[jax.Array] = [jnp.zeros((2, 3, 1))] * (1 + max(places))
    for number, place in places.items():
        spectra = ended.reshape(2, 3 * place.rate, -1)
        given[number] = spectra
        heads[place.name] = jnp.eye(spectra.shape[-1])
    assert float(early_loss(heads, given, made, components, mask, SMALL)) < 1e-6
    given[min(places)] = given[min(places)].at[0].add(1.0)
    heard = early_loss(heads, given, made, components, mask, SMALL)
    np.testing.assert_allclose(heard, 0.5 / len(places), rtol=1e-5)
    only_other = early_loss(heads, given, made, components, mask.at[0].set(0.0), SMALL)
    assert float(only_other) < 1e-6
    given = [x[..., : SMALL.dim] for x in given]
    silent = early_loss(init_early(SMALL), given, made, {"mean": made[0, 0]}, mask, SMALL)
    np.testing.assert_allclose(silent, jnp.mean(jnp.abs(ended - made[0, 0])), rtol=1e-5)


def test_what_blocks_give_ends_in_the_latents() -> None:
    codec = Codec(SMALL)
    params = nn.meta.unbox(
        codec.init(
            jax.random.key(0),
            jnp.zeros((1, SMALL.stride, SMALL.pretransform_patch_size)),
            jnp.full((1,), SMALL.stride),
        )["params"]
    )
    patches = noise(4, 2, 3).reshape(2, -1, SMALL.pretransform_patch_size)
    steps = jnp.full((2,), patches.shape[1])
    places = encoder_places(SMALL)
    stream = open_stream(places, 2)
    given, _ = apply(codec, params, patches, steps, stream, method="encode_through")
    latents, _ = apply(codec, params, patches, steps, stream, method="encode")
    np.testing.assert_array_equal(given[-1], latents)
    for number, place in early_places(SMALL).items():
        assert given[number].shape == (2, 3 * place.rate, SMALL.dim)


def encoder_table(directory: Path) -> tuple[dict[str, Any], Params]:
    """Settings of an encoder that goes on alone from a small model, and that model's weights."""
    config = small_config()
    config.save(directory / "params.json")
    params = nn.meta.unbox(init_params(config, jax.random.key(3)))
    save_params(directory / WEIGHTS_FILE, config, params, jnp.float32)
    recordings = write_recordings(directory / "audio")
    table = codec_table(directory / "params.json", recordings, directory / "run", 1)
    return table | {"start": str(directory), "part": "encoder"}, params


def test_fixed_filters_replace_those_of_the_start_and_learn_nothing(tmp_path: Path) -> None:
    table, params = encoder_table(tmp_path)
    table["envelope"] = {"weight": 1.0, "fixed_filters": True}
    task = codec_task(build_settings(CodecSettings, table, "a test"))
    started = task.start(None)  # type: ignore[arg-type]
    first = {path: leaf for path, leaf in started.items() if path[:2] == ("codec", "input_proj")}
    assert first
    for path, leaf in first.items():
        assert not task.trained(path)
        np.testing.assert_array_equal(leaf, filter_weights(SMALL)[path[-1]])
        own = params["codec"]["input_proj"]["conv"][path[-1]]
        np.testing.assert_array_equal(started["anchor", *path[1:]], own)
    alone = {"start": None, "part": "whole", "envelope": {"fixed_filters": True}}
    with pytest.raises(ConfigError, match="fixed_filters fixes random ones"):
        codec_task(build_settings(CodecSettings, table | alone, "a test"))
    random = nn.meta.unbox(task.init(jax.random.key(0)))["codec"]["input_proj"]["conv"]
    for name, leaf in random.items():
        np.testing.assert_allclose(leaf, filter_weights(SMALL)[name], rtol=1e-6)


def test_phonemes_of_which_no_times_are_known_teach_nothing(tmp_path: Path) -> None:
    table, _ = encoder_table(tmp_path)
    table |= {"part": "whole", "distillation": {"kind": "phonemes"}}
    with pytest.raises(DataError, match=r"no utterance of .*manifest\.jsonl has 'phoneme_ends'"):
        codec_task(build_settings(CodecSettings, table, "a test"))


def test_a_transformer_that_begins_anew_leaves_the_anchor_as_it_was(tmp_path: Path) -> None:
    table, _ = encoder_table(tmp_path)

    def started(envelope: dict[str, Any], **more: Any) -> set[tuple[str, ...]]:
        told = table | {"envelope": envelope} | more
        task = codec_task(build_settings(CodecSettings, told, "a test"))
        return set(task.start(None))  # type: ignore[arg-type]

    whole, anew = started({"weight": 1.0}), started({"weight": 1.0, "anew": True})
    left_out = whole - anew
    assert left_out
    assert left_out == {path for path in whole if path[:2] == ("codec", "encoder_blocks_0")}
    for wrong in ({"start": None, "part": "whole"}, {"part": "decoder"}):
        with pytest.raises(ConfigError, match="anew is for runs with `start`"):
            started({"weight": 1.0, "anew": True}, **wrong)


@pytest.mark.parametrize("lost", ["input_proj", "encoder_blocks.0.layers.0.attention", "quantizer"])
@pytest.mark.parametrize(
    "keeps", [{"part": "decoder"}, {"part": "whole", "quantizer": {"anchored": True}}]
)
def test_codes_are_kept_of_a_whole_encoder_only(tmp_path: Path, lost: str, keeps: Any) -> None:
    table, _ = encoder_table(tmp_path)
    task = codec_task(build_settings(CodecSettings, table | keeps, "a test"))
    task.start(None)  # type: ignore[arg-type]
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    kept = {name: x for name, x in tensors.items() if f"audio_tokenizer.{lost}" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="no weights of the codec's encoder and quantizer"):
        task.start(None)  # type: ignore[arg-type]


def test_an_encoder_may_grow_and_keep_its_codes(tmp_path: Path) -> None:
    table, _ = encoder_table(tmp_path)
    data = small_config().to_dict()
    data["multimodal"]["audio_tokenizer_args"]["encoder_transformer_lengths_str"] = "2,1"
    VoxtralConfig.from_dict(data).save(tmp_path / "deeper.json")
    table |= {"part": "decoder", "params": str(tmp_path / "deeper.json")}
    task = codec_task(build_settings(CodecSettings, table, "a test"))
    started = task.start(None)  # type: ignore[arg-type]
    silent = started["codec", "encoder_blocks_0", "layers_1", "feed_forward", "w2", "weight"]
    assert not np.any(silent)


def test_the_flow_of_the_small_model_weighs_what_its_components_change() -> None:
    nano = ROOT / "configs/nano"
    settings = load_settings(SpeechSettings, nano / "speech.toml", [])
    file = ROOT / "data/nano/components.safetensors"
    basis = read_components(file, source_config(str(nano / "params.json")).codec)["basis"]
    norms = np.linalg.norm(basis[:-LATENTS], axis=1)
    weights = settings.losses.latent_weights
    np.testing.assert_allclose(weights[:-LATENTS], norms / norms[0], atol=0.0051)
    preferences = load_settings(DpoSettings, nano / "dpo.toml", ["judge=some.module:judge"])
    assert preferences.losses.latent_weights == weights
