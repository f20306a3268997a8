"""A codec that goes on and keeps its codes, so that a speech model keeps knowing them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import codec_table, random_weights, small_config, write_recordings

from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, save_params
from voxtral_jax.codec import decoder_names, encoder_names
from voxtral_jax.errors import CheckpointError, ConfigError
from voxtral_jax.parameters import Params, init_params, leaves
from voxtral_jax.training.codec import codec_gradients
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.discriminator import Discriminators
from voxtral_jax.training.distillation import Characters, Nothing
from voxtral_jax.training.encoding import encoder_loss
from voxtral_jax.training.envelope import EnvelopeSettings, find_components
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.recipe import CodecLosses, CodecTraining
from voxtral_jax.training.settings import build_settings
from voxtral_jax.training.stages.codec import codec_task
from voxtral_jax.training.stages.codec_settings import CodecSettings
from voxtral_jax.training.state import gradients_of, split

CONFIG = small_config()
FRAME = CONFIG.codec.frame_samples


def weights_of(training: CodecTraining) -> tuple[Params, Params]:
    """Trained and frozen weights whose anchor is the encoder itself."""
    params = random_weights(training)
    assert params["anchor"].keys() == encoder_names(CONFIG.codec)
    return split(params, training.trained)


def test_codes_and_codebook_stay_and_latents_are_drawn_back() -> None:
    training = CodecTraining(
        config=CONFIG.codec,
        losses=CodecLosses(feature_matching=0.0, commitment=1e3, stft_windows=(126,)),
        quantizer=QuantizerSettings(anchored=True),
        discriminators=None,
        distillation=Nothing(),
    )
    params, frozen = weights_of(training)
    audio = 0.1 * np.random.default_rng(0).standard_normal((4, 6 * FRAME)).astype("f4")
    batch = CropBatch(audio, np.full(4, 6 * FRAME, np.int32), np.arange(4), {})
    step = jax.jit(partial(codec_gradients, training, "all", step=jnp.int32(0)))
    at_start = step(params, frozen, batch, jax.random.key(1))
    assert at_start.metrics["kept"] == 1
    assert at_start.metrics["commitment"] < 1e-9

    name = f"encoder_blocks_{2 * len(CONFIG.codec.encoder_stages) - 1}"
    final = jax.tree.map(lambda x: 1.5 * x, params["codec"][name])
    moved = params | {"codec": params["codec"] | {name: final}}
    apart = step(moved, frozen, batch, jax.random.key(1))
    assert apart.metrics["kept"] < 1
    assert apart.metrics["commitment"] > 0
    nearer = jax.tree.map(
        lambda x, g: x - 0.1 * jnp.linalg.norm(x) / jnp.linalg.norm(g) * g,
        final,
        apart.params["codec"][name],
    )
    back = moved | {"codec": moved["codec"] | {name: nearer}}
    again = step(back, frozen, batch, jax.random.key(1))
    assert again.metrics["commitment"] < apart.metrics["commitment"]
    for made in (at_start, apart):
        for (_, ours), (_, theirs) in zip(leaves(made.frozen), leaves(frozen), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_decoder_learns_alone_from_discriminators() -> None:
    training = CodecTraining(
        config=CONFIG.codec,
        losses=CodecLosses(adversarial=0.1, stft_windows=(126,)),
        quantizer=QuantizerSettings(),
        discriminators=Discriminators(4, (76,), "frames"),
        distillation=Characters(frame_samples=FRAME, crop_frames=3),
        part="decoder",
    )
    params, frozen = split(random_weights(training), training.trained)
    assert set(params) == {"codec", "critic"}
    assert params["codec"].keys() == decoder_names(CONFIG.codec)
    assert frozen["codec"].keys() == {*encoder_names(CONFIG.codec), "quantizer"}
    audio = 0.1 * np.random.default_rng(0).standard_normal((2, 3 * FRAME)).astype("f4")
    said = Utterance(key="a", audio="a", texts=("ab",), language="en", speaker="s")
    teacher = training.distillation.targets(said, 0, 3 * FRAME, True)
    targets = {name: np.stack([x, x]) for name, x in teacher.items()}
    batch = CropBatch(audio, np.full(2, 3 * FRAME, np.int32), np.arange(2), targets)
    step = jax.jit(partial(codec_gradients, training, "all", step=jnp.int32(0)))
    made = step(params, frozen, batch, jax.random.key(1))
    assert all(np.any(leaf) for _, leaf in leaves(made.params))
    for (_, ours), (_, theirs) in zip(leaves(made.frozen), leaves(frozen), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_encoder_learns_alone_and_keeps_its_codes() -> None:
    training = CodecTraining(
        config=CONFIG.codec,
        losses=CodecLosses(commitment=1.0),
        quantizer=QuantizerSettings(),
        discriminators=None,
        distillation=Nothing(),
        envelope=EnvelopeSettings(weight=1.0, early=1.0),
        part="encoder",
    )
    params, frozen = weights_of(training)
    assert set(params) == {"codec", "early"}
    assert params["codec"].keys() == encoder_names(CONFIG.codec)
    assert frozen["codec"].keys() == {*decoder_names(CONFIG.codec), "quantizer"}
    audio = 0.1 * np.random.default_rng(0).standard_normal((4, 3 * FRAME)).astype("f4")
    batch = CropBatch(audio, np.full(4, 3 * FRAME, np.int32), np.arange(4), {})
    frozen["envelope"] = find_components([batch], CONFIG.codec)
    step = jax.jit(
        partial(
            gradients_of(partial(encoder_loss, training, "all")),
            batch=batch,
            key=jax.random.key(1),
            step=jnp.int32(0),
        )
    )
    first = step(params, frozen)
    assert set(first.metrics) == {"commitment", "envelope", "early", "kept"}
    assert first.metrics["kept"] == 1
    assert first.metrics["commitment"] < 1e-9
    assert np.any(first.params["early"]["encoder_blocks_0"])
    square = sum(float(jnp.sum(leaf**2)) for _, leaf in leaves(first.params))
    nearer = jax.tree.map(lambda x, g: x - 1e-3 / square * g, params, first.params)
    assert step(nearer, frozen).loss < first.loss - 0.5e-3
    for (_, ours), (_, theirs) in zip(leaves(first.frozen), leaves(frozen), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_anchor_is_the_encoder_that_the_run_starts_from(tmp_path: Path) -> None:
    CONFIG.save(tmp_path / "params.json")
    table: dict[str, Any] = codec_table(
        tmp_path / "params.json", write_recordings(tmp_path / "audio"), tmp_path / "run", 1
    )
    for name, keeps in (
        ('part = "decoder"', {"part": "decoder"}),
        ('part = "encoder"', {"part": "encoder"}),
        ("quantizer.anchored", {"quantizer": {"anchored": True}}),
    ):
        with pytest.raises(ConfigError, match=f"{name} keeps the codes of `start`"):
            codec_task(build_settings(CodecSettings, table | keeps, "a test"))
    alone = {"part": "encoder", "start": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"learns by envelope\.weight, which is 0"):
        codec_task(build_settings(CodecSettings, table | alone, "a test"))
    table["quantizer"] = {"anchored": True}

    params = nn.meta.unbox(init_params(CONFIG, jax.random.key(3)))
    encoder = encoder_names(CONFIG.codec)
    without = {name: part for name, part in params["codec"].items() if name not in encoder}
    for name, codec in (("whole", params["codec"]), ("decoder", without)):
        (tmp_path / name).mkdir()
        CONFIG.save(tmp_path / name / "params.json")
        save_params(tmp_path / name / WEIGHTS_FILE, CONFIG, params | {"codec": codec}, jnp.float32)

    def start(name: str) -> Any:
        settings = build_settings(CodecSettings, table | {"start": str(tmp_path / name)}, "a test")
        return codec_task(settings).start(None)  # type: ignore[arg-type]

    started = start("whole")
    anchored = {path for path in started if path[0] == "anchor"}
    assert {path[1] for path in anchored} == encoder
    for path in anchored:
        np.testing.assert_array_equal(started[path], started["codec", *path[1:]])
    with pytest.raises(CheckpointError, match="has no weights of the codec's encoder"):
        start("decoder")
