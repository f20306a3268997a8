"""The codec: streamed equals offline, padding changes nothing, state stays the same size."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax import Model, VoxtralError, decode_codes, encode_audio
from voxtral_jax.codec import Codec, fold
from voxtral_jax.codec.attention import BLOCK
from voxtral_jax.codec.run import (
    MOST_FRAMES,
    decode_chunk,
    decoder_stream,
    encode_chunk,
    encoder_stream,
)
from voxtral_jax.config import CodecConfig
from voxtral_jax.nn.positions import alibi_slopes

EXACT = 1e-5
"""Of the largest magnitude."""
FRAMES = 12


def random_codes(config: CodecConfig, frames: int, seed: int = 0, batch: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    semantic = random.integers(0, config.semantic_codebook_size, (batch, frames, 1))
    levels = config.acoustic_codebook_size
    acoustic = random.integers(0, levels, (batch, frames, config.acoustic_dim))
    return np.concatenate([semantic, acoustic], axis=-1).astype(np.int32)


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    """Chunk sizes that add up to FRAMES; few different ones, as each is compiled."""
    sizes: list[int] = []
    while (left := FRAMES - sum(sizes)) > 0:
        sizes.append(draw(st.sampled_from([size for size in (1, 3, 8) if size <= left])))
    return sizes


@settings(max_examples=15, deadline=None)
@given(splits())
def test_any_split_into_chunks_decodes_to_the_same_samples(model: Model, sizes) -> None:
    config = model.config.codec
    codes = random_codes(config, FRAMES)
    whole = decode_codes(model, codes[0])
    stream, pieces, start = decoder_stream(config, 1), [], 0
    for size in sizes:
        lengths = np.array([size], np.int32)
        chunk = codes[:, start : start + size]
        samples, stream = decode_chunk(model.codec, chunk, lengths, stream, config=config)
        pieces.append(np.asarray(samples[0]))
        start += size
    assert error(np.concatenate(pieces), whole) < EXACT


@settings(max_examples=10, deadline=None)
@given(splits())
def test_any_split_into_chunks_encodes_to_the_same_codes(model: Model, sizes) -> None:
    config = model.config.codec
    samples = speech(config, FRAMES * config.frame_samples)
    whole = encode_audio(model, samples, config.sampling_rate)
    stream, pieces, start = encoder_stream(config, 1), [], 0
    patches = samples.reshape(1, -1, config.pretransform_patch_size)
    for size in sizes:
        count = size * config.stride
        codes, stream = encode_chunk(
            model.codec,
            patches[:, start : start + count],
            np.array([count], np.int32),
            stream,
            config=config,
            kernels="jnp",
        )
        pieces.append(np.asarray(codes[0]))
        start += count
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def speech(config: CodecConfig, count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    t = np.arange(count) / config.sampling_rate
    tone = np.sin(2 * np.pi * 140 * t) * np.sin(2 * np.pi * 3 * t)
    return (0.3 * tone + 0.02 * random.normal(size=count)).astype(np.float32)


def test_padding_changes_no_sample_whatever_it_holds(model: Model) -> None:
    config = model.config.codec
    codes = random_codes(config, FRAMES, batch=3)
    lengths = np.array([1, 5, FRAMES], np.int32)
    samples, _ = decode_chunk(model.codec, codes, lengths, decoder_stream(config, 3), config=config)
    for row, length in enumerate(lengths):
        alone = decode_codes(model, codes[row, :length])
        assert error(np.asarray(samples[row, : len(alone)]), alone) < EXACT


@pytest.mark.parametrize("extra", [0, 1, 240, 241, 1000, 1919])
def test_padding_changes_no_code(model: Model, extra: int) -> None:
    config = model.config.codec
    count = 3 * config.frame_samples + extra
    alone = encode_audio(model, speech(config, count), config.sampling_rate)
    patches = -(-count // config.pretransform_patch_size)
    noise = np.random.default_rng(2).normal(size=(2, 8 * config.frame_samples))
    padded = noise.astype(np.float32)
    # The last patch is filled with zeros; what lies after it does not count.
    padded[0, : patches * config.pretransform_patch_size] = 0
    padded[0, :count] = speech(config, count)
    codes, _ = encode_chunk(
        model.codec,
        padded.reshape(2, -1, config.pretransform_patch_size),
        np.array([patches, 8 * config.stride], np.int32),
        encoder_stream(config, 2),
        config=config,
        kernels="jnp",
    )
    np.testing.assert_array_equal(codes[0, : len(alone)], alone)


def test_long_recordings_are_handled_in_chunks_of_constant_memory(model: Model) -> None:
    config = model.config.codec
    codes = random_codes(config, MOST_FRAMES + 20)[0]
    samples = decode_codes(model, codes)
    assert len(samples) == len(codes) * config.frame_samples
    stream = decoder_stream(config, 1)
    whole, after = decode_chunk(
        model.codec, codes[None], np.array([len(codes)]), stream, config=config
    )
    assert error(samples, np.asarray(whole[0])) < EXACT
    fresh = decoder_stream(config, 1)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, fresh)
    again = encode_audio(model, samples, config.sampling_rate)
    assert again.shape == codes.shape


def test_a_chunk_longer_than_an_attention_block_is_the_same(model: Model) -> None:
    config = model.config.codec
    frames = 2 * BLOCK // config.stride + 3
    codes = random_codes(config, frames)
    stream, pieces = decoder_stream(config, 1), []
    for start in range(frames):
        samples, stream = decode_chunk(
            model.codec, codes[:, start : start + 1], np.array([1]), stream, config=config
        )
        pieces.append(np.asarray(samples[0]))
    assert error(np.concatenate(pieces), decode_codes(model, codes[0])) < EXACT


def test_a_stream_restarts_where_its_frame_count_is_zero(model: Model) -> None:
    config = model.config.codec
    codes = random_codes(config, 6, batch=2)
    lengths = np.array([6, 6], np.int32)
    _, stream = decode_chunk(model.codec, codes, lengths, decoder_stream(config, 2), config=config)
    stream = dataclasses.replace(stream, frames=stream.frames.at[1].set(0))
    samples, _ = decode_chunk(model.codec, codes, lengths, stream, config=config)
    assert error(np.asarray(samples[1]), decode_codes(model, codes[1])) < EXACT
    assert error(np.asarray(samples[0]), decode_codes(model, codes[0])) > EXACT


ONE_LAYER = {
    "encoder_transformer_lengths_str": "1,1,1,1",
    "decoder_transformer_lengths_str": "1,1,1,1",
}
VARIANTS = {
    "no norms, no scales, fixed window": ONE_LAYER
    | {
        "conv_weight_norm": False,
        "layer_scale": False,
        "qk_norm": False,
        "half_attn_window_upon_downsampling": False,
    },
    "six heads, grouped": ONE_LAYER | {"n_heads": 6, "n_kv_heads": 3},
    "three stages": {
        "encoder_transformer_lengths_str": "1,1,2",
        "encoder_convs_kernels_str": "3,5,3",
        "encoder_convs_strides_str": "2,2,1",
        "decoder_transformer_lengths_str": "1,2,1",
        "decoder_convs_kernels_str": "3,3,4",
        "decoder_convs_strides_str": "1,2,2",
    },
    "a stage without convolution": ONE_LAYER
    | {
        "encoder_convs_kernels_str": "4,1,4,3",
        "encoder_convs_strides_str": "2,1,2,1",
        "decoder_convs_kernels_str": "3,4,1,4",
        "decoder_convs_strides_str": "1,2,1,2",
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_shapes_of_codec_stream_and_pad_alike(model: Model, variant: str) -> None:
    config = dataclasses.replace(model.config.codec, **VARIANTS[variant])
    patches = jnp.zeros((1, config.stride, config.pretransform_patch_size))
    init = jax.jit(Codec(config).init)
    params = init(jax.random.key(3), patches, jnp.full(1, config.stride))["params"]
    params = fold(nn.meta.unbox(params), config)
    codes = random_codes(config, 9, batch=2)
    lengths = np.array([4, 9], np.int32)
    samples, _ = decode_chunk(params, codes, lengths, decoder_stream(config, 2), config=config)
    stream, pieces = decoder_stream(config, 2), []
    for start, size in ((0, 3), (3, 3), (6, 3)):
        valid = np.clip(lengths - start, 0, size)
        piece, stream = decode_chunk(
            params, codes[:, start : start + size], valid, stream, config=config
        )
        pieces.append(np.asarray(piece))
    streamed = np.concatenate(pieces, axis=1)
    for row, length in enumerate(lengths):
        valid = length * config.frame_samples
        assert error(streamed[row, :valid], np.asarray(samples[row, :valid])) < EXACT


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (4, [1, 1 / 4, 1 / 16, 1 / 64]),
        (8, [2.0**-i for i in range(8)]),
        # 6 heads: those of 4, then the first and third of 8.
        (6, [1, 1 / 4, 1 / 16, 1 / 64, 1, 1 / 4]),
        (1, [1]),
    ],
)
def test_alibi_slopes_follow_the_published_rule(heads: int, slopes: list[float]) -> None:
    np.testing.assert_allclose(alibi_slopes(heads), slopes)


def test_codes_out_of_range_are_refused(model: Model) -> None:
    good = random_codes(model.config.codec, 2)[0]
    for bad in (good[:, :-1], good[:0], good.astype(np.float32), good[None], good - 1000):
        with pytest.raises(VoxtralError, match="codes must be"):
            decode_codes(model, bad)


def test_audio_that_cannot_be_encoded_is_refused(model: Model) -> None:
    for bad in (np.zeros(0, np.float32), np.full(4000, np.nan, np.float32)):
        with pytest.raises(VoxtralError, match="empty or holds"):
            encode_audio(model, bad, 24_000)
    with pytest.raises(VoxtralError, match="sample rate"):
        encode_audio(model, np.zeros(4000, np.float32), 7)
