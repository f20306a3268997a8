"""Every number equals the reference implementation's.

`VOXTRAL_REFERENCE` names another reference directory of the same layout; all sizes come from its
`params.json`.
"""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from conftest import REFERENCE
from safetensors.numpy import load_file

from voxtral_jax import Model, decode_codes, encode_audio, load_model
from voxtral_jax.checkpoint.weights import WEIGHTS_FILE
from voxtral_jax.cloning import voice_from_codes
from voxtral_jax.codec import Codec
from voxtral_jax.codec.run import decode_chunk, decoder_stream, encoder_stream
from voxtral_jax.config import END_AUDIO, TOKEN_OFFSET
from voxtral_jax.decoder.generate import (
    Generation,
    Requests,
    append_frame,
    generate,
    make_frame,
    prefill,
)
from voxtral_jax.decoder.prompt import PromptBatch, batch_prompts, prompt_ids
from voxtral_jax.flow import FlowHead, Sampler, sample_flow, time_table

TOLERANCE = 2e-4
"""Of the largest magnitude."""
PATH = Path(os.environ.get("VOXTRAL_REFERENCE", REFERENCE))
GUIDANCES = (1.2, 3.0)
PROMPTS = ("voice", "clone")


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(PATH, dtype="float32")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return load_file(PATH / "expected.safetensors")


def assert_close(ours: object, theirs: np.ndarray) -> None:
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= TOLERANCE, f"relative error {error:.2e}"


def reference_audio() -> tuple[np.ndarray, int]:
    return soundfile.read(PATH / "reference.wav", dtype="float32")


def test_every_expected_entry_is_covered(expected: dict[str, np.ndarray]) -> None:
    steps = {
        f"{p}.cfg{g}.{n}" for p in PROMPTS for g in GUIDANCES for n in ("hidden", "flow", "codes")
    }
    prompts = {f"{p}.{n}" for p in PROMPTS for n in ("prefill_hidden", "noise", "cfg1.2.waveform")}
    others = {
        *("encode.latent", "encode.codes", "decode.codes", "decode.waveform", "decode.one_frame"),
        *("voice.codes", "voice.embedding", "prompt.voice_tokens", "prompt.clone_tokens"),
        *(f"acoustic.{n}" for n in ("h", "x", "t", "velocity", "semantic_logits")),
        *(f"acoustic.{n}_cfg1.2" for n in ("euler", "midpoint")),
    }
    assert set(expected) == steps | prompts | others


def test_the_encoder_makes_the_same_latents_and_codes(model, expected) -> None:
    samples, rate = reference_audio()
    codec = model.config.codec
    assert rate == codec.sampling_rate
    patches = -(-len(samples) // codec.pretransform_patch_size)
    frames = -(-patches // codec.stride)
    padded = np.zeros(frames * codec.frame_samples, np.float32)
    padded[: len(samples)] = samples
    encode = jax.jit(partial(Codec(codec).apply, method="encode"))
    latent, _ = encode(
        {"params": model.codec},
        padded.reshape(1, -1, codec.pretransform_patch_size),
        jnp.array([patches]),
        encoder_stream(codec, 1),
    )
    assert_close(latent.transpose(0, 2, 1), expected["encode.latent"])
    np.testing.assert_array_equal(
        encode_audio(model, samples, rate).T[None], expected["encode.codes"]
    )


def test_the_decoder_of_the_codec_makes_the_same_samples(model, expected) -> None:
    codes = expected["decode.codes"].transpose(0, 2, 1)
    config = model.config.codec
    for padding in (0, 3):
        padded = np.pad(codes, ((0, 0), (0, padding), (0, 0)))
        lengths = np.full(2, codes.shape[1], np.int32)
        samples, _ = decode_chunk(
            model.codec, padded, lengths, decoder_stream(config, 2), config=config
        )
        valid = codes.shape[1] * config.frame_samples
        assert_close(samples[:, :valid], expected["decode.waveform"])
    assert_close(decode_codes(model, codes[0])[None], expected["decode.waveform"][:1])


def test_a_single_frame_decodes_to_the_same_samples(model, expected) -> None:
    codes = expected["decode.codes"].transpose(0, 2, 1)
    assert_close(decode_codes(model, codes[0, :1])[None], expected["decode.one_frame"])


def test_a_recording_makes_the_same_voice_prompt(model, expected) -> None:
    samples, rate = reference_audio()
    voice = voice_from_codes(model, encode_audio(model, samples, rate), "reference")
    tokens = expected["voice.codes"]
    np.testing.assert_array_equal(voice.codes + TOKEN_OFFSET, tokens[:-1])
    assert tokens[-1, 0] == END_AUDIO
    assert_close(voice.embedding, expected["voice.embedding"])


def prompt_of(model: Model, name: str, expected: dict[str, np.ndarray]) -> PromptBatch:
    if name == "voice":
        voice = model.voice("neutral_female").embedding
    else:
        voice = expected["voice.embedding"]
    text = (PATH / "text.txt").read_text(encoding="utf-8")
    ids = prompt_ids(model.config, model.tokenizer, text, len(voice))
    return batch_prompts([ids], [voice])


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompt_has_the_same_token_ids(model, expected, name: str) -> None:
    prompt = prompt_of(model, name, expected)
    ids = prompt.ids[0, : prompt.lengths[0]]
    np.testing.assert_array_equal(ids, expected[f"prompt.{name}_tokens"])


def test_velocity_and_semantic_logits_are_the_same(model, expected) -> None:
    hidden, x, t = (expected[f"acoustic.{name}"] for name in ("h", "x", "t"))
    logits, velocity = FlowHead(model.config.audio).apply(
        {"params": model.params["flow"]}, hidden, x, t
    )
    assert_close(velocity, expected["acoustic.velocity"])
    theirs = expected["acoustic.semantic_logits"]
    np.testing.assert_array_equal(logits < -1e29, theirs < -1e29)
    real = theirs > -1e29
    assert_close(np.asarray(logits)[real], theirs[real])


@pytest.mark.parametrize("kernels", ["jnp", "interpret"])
@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_the_guided_flow_ends_at_the_same_place(model, expected, solver, kernels) -> None:
    config = model.config
    sampler = Sampler(solver, config.flow.n_decoding_steps, kernels)
    flow = model.params["flow"]
    table = time_table(flow, config.audio, sampler, jnp.float32)
    hidden, x = expected["acoustic.h"], expected["acoustic.x"]
    guidance = jnp.full(len(x), 1.2)
    end, _ = sample_flow(flow, config.audio, sampler, table, hidden, x, guidance)
    assert_close(end, expected[f"acoustic.{solver}_cfg1.2"])


def start(model: Model, prompt: PromptBatch, frames: int) -> tuple[Generation, object]:
    return prefill(
        model.speaker,
        prompt,
        config=model.config,
        cache_length=prompt.ids.shape[1] + frames,
        most_frames=frames,
    )


def requests(guidance: float, noise: np.ndarray) -> Requests:
    return Requests(
        seeds=jnp.zeros(1, jnp.uint32),
        guidance=jnp.full(1, guidance, jnp.float32),
        noise_scale=jnp.ones(1),
        temperature=jnp.zeros(1),
        top_p=jnp.ones(1),
        least_frames=jnp.zeros(1, jnp.int32),
        most_frames=jnp.full(1, len(noise), jnp.int32),
        noise=jnp.asarray(noise)[None],
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_prefill_makes_the_same_hidden_states(model, expected, name: str) -> None:
    prompt = prompt_of(model, name, expected)
    state, hidden = start(model, prompt, 8)
    length = prompt.lengths[0]
    assert_close(hidden[:, :length], expected[f"{name}.prefill_hidden"])
    assert_close(state.hidden, expected[f"{name}.prefill_hidden"][:, -1])


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("name", PROMPTS)
def test_each_generated_frame_is_the_same(model, expected, name: str, guidance: float) -> None:
    prefix = f"{name}.cfg{guidance}"
    codes, noise = expected[f"{prefix}.codes"], expected[f"{name}.noise"]
    config = model.config
    sampler = Sampler("euler", config.flow.n_decoding_steps)
    table = time_table(model.params["flow"], config.audio, sampler, jnp.float32)
    request = requests(guidance, noise)
    state, _ = start(model, prompt_of(model, name, expected), len(codes))
    next_frame = jax.jit(partial(make_frame, config=config, sampler=sampler))
    step = jax.jit(partial(append_frame, config=config))
    hidden, flow, tokens = [], [], []
    for _ in range(len(codes)):
        frame = next_frame(model.speaker, table=table, state=state, requests=request)
        hidden.append(state.hidden[0])
        flow.append(frame.flow[0])
        tokens.append(frame.tokens[0])
        state = step(model.speaker, state=state, frame=frame, requests=request)
    assert_close(np.stack(hidden), expected[f"{prefix}.hidden"])
    assert_close(np.stack(flow), expected[f"{prefix}.flow"])
    np.testing.assert_array_equal(np.stack(tokens), codes)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("name", PROMPTS)
def test_the_loop_on_the_device_makes_the_same_codes_and_waveform(
    model, expected, name: str, guidance: float
) -> None:
    prefix = f"{name}.cfg{guidance}"
    codes, noise = expected[f"{prefix}.codes"], expected[f"{name}.noise"]
    sampler = Sampler("euler", model.config.flow.n_decoding_steps)
    state, _ = start(model, prompt_of(model, name, expected), len(codes))
    state = generate(
        model.speaker,
        state,
        requests(guidance, noise),
        len(codes),
        config=model.config,
        sampler=sampler,
    )
    np.testing.assert_array_equal(state.tokens[0], codes)
    if f"{prefix}.waveform" in expected:
        samples = decode_codes(model, np.asarray(state.tokens[0]) - TOKEN_OFFSET)
        assert_close(samples[None], expected[f"{prefix}.waveform"])


def test_the_reference_is_complete() -> None:
    for name in ("params.json", WEIGHTS_FILE, "tekken.json", "text.txt", "reference.wav"):
        assert (PATH / name).is_file()
