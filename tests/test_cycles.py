"""Where in its cycle a voice is, and layers of the decoder that are taught it."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import (
    codec_table,
    hum,
    random_weights,
    read_metrics,
    run,
    wide_config,
    write_recordings,
)

from voxtral_jax import VoxtralConfig
from voxtral_jax.codec.model import Codec, decoder_places, open_stream
from voxtral_jax.errors import ConfigError
from voxtral_jax.nn.module import REMAT, apply, apply_through
from voxtral_jax.nn.transformer import TransformerLayer
from voxtral_jax.training.checkpoints import run_weights
from voxtral_jax.training.codec import codec_loss
from voxtral_jax.training.costs import dry_run
from voxtral_jax.training.cycles import HARMONICS, HIGHEST, cycle_loss, cycles, taught_layers
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.distillation import Nothing
from voxtral_jax.training.envelope import EnvelopeSettings
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.recipe import CodecLosses, CodecTraining
from voxtral_jax.training.settings import build_settings
from voxtral_jax.training.stages.codec import codec_task
from voxtral_jax.training.stages.codec_settings import CodecSettings
from voxtral_jax.training.state import split


def deep_config() -> VoxtralConfig:
    """`wide_config` with a decoder that has layers to teach: slow, at half speed, one of two."""
    data = wide_config().to_dict()
    data["multimodal"]["audio_tokenizer_args"] |= {
        "decoder_transformer_lengths_str": "1,1,2",
        "decoder_convs_kernels_str": "3,8,4",
        "decoder_convs_strides_str": "1,4,2",
    }
    return VoxtralConfig.from_dict(data)


CODEC = deep_config().codec
RATE = CODEC.frame_rate
PITCH = np.array([[100.0, 104, 130, 0], [0, 210, 190, 200]])


def test_frames_have_whole_cycles_and_pitch_goes_from_end_to_end() -> None:
    turns, hertz = cycles(PITCH, np.array([0, 0.5, 1]), RATE)
    assert turns.dtype == np.float64
    np.testing.assert_allclose(turns[..., 0], 0)
    np.testing.assert_allclose(turns[..., 2], np.round(turns[..., 2]), atol=1e-9)
    np.testing.assert_array_equal(turns[0, :3, 2], [8, 8, 10])
    np.testing.assert_allclose(hertz[..., 2][PITCH > 0], PITCH[PITCH > 0])
    np.testing.assert_allclose(hertz[0, 1:3, 0], PITCH[0, :2])
    assert hertz[1, 1, 0] == pytest.approx(210)  # without a voice before
    np.testing.assert_allclose(np.diff(turns[0, 1]), 4, atol=0.3)
    same, _ = cycles(jnp.asarray(PITCH), jnp.array([0, 0.5, 1]), RATE)
    assert isinstance(same, jax.Array)
    np.testing.assert_allclose(same, turns, atol=1e-5)


def test_heads_that_say_the_phases_owe_nothing() -> None:
    middles = (np.arange(CODEC.stride) + 0.5) / CODEC.stride
    turns, hertz = cycles(PITCH, middles, RATE)
    angles = 2 * np.pi * turns[..., None] * np.arange(1, HARMONICS + 1)
    said = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    layers = taught_layers(CODEC)
    assert [layer.patches for layer in layers] == [CODEC.stride, 2, 1]
    assert [layer.harmonics for layer in layers] == [5, HARMONICS, HARMONICS]
    # Layers that give the phases themselves, but not where there is no voice, or none is taught.
    known = (PITCH > 0)[..., None, None] & (hertz[..., None] * np.arange(1, 21) < HIGHEST)
    given: dict[str, Any] = {}
    for layer in layers:
        phases = np.where(known[..., None], said, 7.0)[..., : layer.harmonics, :]
        steps = phases.reshape(2, 4 * CODEC.stride // layer.patches, -1)
        given.setdefault(layer.block, {})[f"layers_{layer.number}"] = jnp.asarray(steps)
    whole = {layer.name: jnp.eye(layer.patches * layer.harmonics * 2) for layer in layers}
    loss = jax.jit(partial(cycle_loss, config=CODEC))
    pitch, mask = jnp.asarray(PITCH), jnp.ones((2, 4))
    assert float(loss(whole, given, pitch, mask)) < 1e-6
    silent = jax.tree.map(jnp.zeros_like, whole)
    np.testing.assert_allclose(loss(silent, given, pitch, mask), 1, rtol=1e-5)
    first = layers[0]
    given[first.block][f"layers_{first.number}"] = jnp.zeros_like(
        given[first.block][f"layers_{first.number}"]
    )
    np.testing.assert_allclose(loss(whole, given, pitch, mask), 1 / len(layers), rtol=1e-5)
    assert float(loss(silent, given, pitch, jnp.zeros((2, 4)))) == 0
    assert float(loss(silent, given, jnp.zeros((2, 4)), mask)) == 0


@pytest.mark.parametrize("keep", REMAT)
def test_what_layers_give_is_what_they_give(keep: str) -> None:
    codec = Codec(CODEC, remat=keep)
    frame = jnp.zeros((1, CODEC.stride, CODEC.pretransform_patch_size))
    params = nn.meta.unbox(
        jax.jit(codec.init)(jax.random.key(0), frame, jnp.full((1,), CODEC.stride))["params"]
    )
    latent = jax.random.normal(jax.random.key(1), (2, 3, CODEC.latent_dim))
    stream = open_stream(decoder_places(CODEC), 2)
    arguments = (latent, jnp.full((2,), 3), stream)
    samples, _ = apply(codec, params, *arguments, method="decode_latent")
    (same, _), given = apply_through(
        codec, params, TransformerLayer, *arguments, method="decode_latent"
    )
    np.testing.assert_array_equal(same, samples)
    for layer in taught_layers(CODEC):
        steps = given[layer.block][f"layers_{layer.number}"]
        assert steps.shape == (2, 3 * CODEC.stride // layer.patches, CODEC.dim)
    *_, final, project = decoder_places(CODEC)
    last = given[final.name][f"layers_{final.block.n_layers - 1}"]
    played, _ = apply(
        codec,
        params,
        last,
        method=lambda codec, x: getattr(codec, project.name)(
            x, stream.blocks[-1], stream.frames, jnp.full((2,), x.shape[1])
        ),
    )
    np.testing.assert_allclose(played.reshape(2, -1), samples, atol=1e-6)


def test_the_decoder_alone_learns_them_and_only_taught_layers_are_asked() -> None:
    training = CodecTraining(
        config=CODEC,
        losses=CodecLosses(feature_matching=0.0, reconstruction=0.0, commitment=0.0, cycles=1.0),
        quantizer=QuantizerSettings(acoustic_share=1.0),
        discriminators=None,
        distillation=Nothing(),
        envelope=EnvelopeSettings(components="some", exact_share=1.0, pitch=1.0),
        part="decoder",
    )
    params, frozen = split(random_weights(training), training.trained)
    assert set(params) == {"codec", "cycles"}
    assert set(params["codec"]) == {place.name for place in decoder_places(CODEC)}
    params["cycles"] = jax.tree.map(lambda x: x + 0.01, params["cycles"])
    samples = np.stack([hum(0.32, 130, seed) for seed in (0, 1)])
    batch = CropBatch(
        samples,
        np.full(2, samples.shape[1], np.int32),
        np.arange(2),
        {},
        samples,
        PITCH.astype(np.float32),
    )
    loss = partial(codec_loss, training, "all", frozen=frozen, batch=batch, step=jnp.array(0))
    found, each = jax.jit(jax.grad(lambda p: loss(p, key=jax.random.key(1)), has_aux=True))(params)
    assert float(each["cycles"]) > 0
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(found["cycles"]))
    final, project = decoder_places(CODEC)[-2:]
    last = found["codec"][final.name][f"layers_{final.block.n_layers - 1}"]
    for leaf in jax.tree.leaves([last, found["codec"][project.name]]):
        assert float(jnp.abs(leaf).max()) == 0
    for leaf in jax.tree.leaves(found["codec"]["decoder_blocks_0"]):
        assert float(jnp.abs(leaf).max()) > 0


def pitched_table(directory: Path, steps: int) -> dict[str, Any]:
    """Settings of a decoder that goes on from a small model, its recordings' pitch known."""
    deep_config().save(directory / "params.json")
    manifest = write_recordings(directory / "audio")
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["pitch"] = [150.0] * math.ceil((1.6 + 0.08 * number) * RATE)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = codec_table(directory / "params.json", manifest, directory / "run", steps)
    table["envelope"] = {"weight": 1.0, "pitch": 1.0, "exact_share": 1.0}
    table["losses"] = {**table["losses"], "cycles": 1.0}
    return table


def test_a_run_learns_them_and_says_so(tmp_path: Path) -> None:
    run("codec", pitched_table(tmp_path, steps=12))
    found = [line["cycles"] for line in read_metrics(tmp_path / "run")]
    assert found[0] == pytest.approx(1, abs=1e-3)
    assert found[-1] < 0.5 * found[0]
    assert "cycles" in {path[0] for path in run_weights(tmp_path / "run")}


def test_their_cost_is_known_without_data(tmp_path: Path) -> None:
    settings = build_settings(CodecSettings, pitched_table(tmp_path, steps=1), "a test")
    lines = list(dry_run(codec_task(settings, read_data=False), settings))
    assert any("operations" in line for line in lines)


def test_cycles_without_pitch_or_decoder_are_refused(tmp_path: Path) -> None:
    table = pitched_table(tmp_path, steps=1)
    without = table | {"envelope": {"weight": 1.0}}
    encoder = table | {"part": "encoder", "start": str(tmp_path)}
    for wrong in (without, encoder):
        with pytest.raises(ConfigError, match=r"losses\.cycles teaches the decoder"):
            codec_task(build_settings(CodecSettings, wrong, "a test"))
    data = deep_config().to_dict()
    data["multimodal"]["audio_tokenizer_args"]["decoder_transformer_lengths_str"] = "0,0,1"
    VoxtralConfig.from_dict(data).save(tmp_path / "params.json")
    with pytest.raises(ConfigError, match="has no layer that losses"):
        codec_task(build_settings(CodecSettings, table, "a test"))
