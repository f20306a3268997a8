"""Generation: batches, chunks, endings and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax import Model
from voxtral_jax.buckets import bucket
from voxtral_jax.config import EMPTY_AUDIO, END_AUDIO
from voxtral_jax.decoder.generate import (
    Requests,
    choose_semantic,
    frame_noise,
    generate,
    prefill,
)
from voxtral_jax.decoder.model import Decoder, KVCache
from voxtral_jax.decoder.prompt import batch_prompts, prompt_ids
from voxtral_jax.flow import Sampler
from voxtral_jax.flow.model import MASKED

FRAMES = 16
TEXTS = [
    "Hi.",
    "A longer text than that one.",
    "And this is the longest text of all three, by far.",
]


def prompts_of(model: Model, texts: list[str], voices: list[str]):
    embeddings = [model.voice(name).embedding for name in voices]
    ids = [
        prompt_ids(model.config, model.tokenizer, text, len(voice))
        for text, voice in zip(texts, embeddings, strict=True)
    ]
    return batch_prompts(ids, embeddings)


def requests_of(rows: int, **columns) -> Requests:
    defaults = {
        "seeds": np.arange(rows),
        "guidance": np.full(rows, 1.2),
        "noise_scale": np.ones(rows),
        "temperature": np.zeros(rows),
        "top_p": np.ones(rows),
        "least_frames": np.full(rows, FRAMES),
        "most_frames": np.full(rows, FRAMES),
    }
    kinds = {"seeds": np.uint32, "least_frames": np.int32, "most_frames": np.int32}
    return Requests(
        **{
            name: np.asarray(value, kinds.get(name, np.float32))
            for name, value in (defaults | columns).items()
        }
    )


def run(model: Model, prompt, requests: Requests, counts=(FRAMES,), params=None):
    params = params or model.speaker
    state, _ = prefill(params, prompt, config=model.config, cache_length=256, most_frames=FRAMES)
    for count in counts:
        state = generate(params, state, requests, count, config=model.config, sampler=Sampler())
    return state


@pytest.fixture(scope="module")
def batch(model: Model):
    prompt = prompts_of(model, TEXTS, ["neutral_female", "de_male", "neutral_female"])
    return prompt, run(model, prompt, requests_of(3))


@pytest.mark.parametrize("row", range(3))
def test_a_sequence_is_the_same_alone_and_in_a_batch(model: Model, batch, row: int) -> None:
    _, together = batch
    voice = ["neutral_female", "de_male", "neutral_female"][row]
    alone = run(
        model, prompts_of(model, TEXTS[row : row + 1], [voice]), requests_of(1, seeds=[row])
    )
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])


def test_chunks_of_any_size_make_the_same_codes_without_compiling_again(model, batch) -> None:
    prompt, whole = batch
    before = generate._cache_size()
    for counts in ([1] * FRAMES, [5, 3, 8], [FRAMES + 7], [7, 100]):
        state = run(model, prompt, requests_of(3), counts)
        np.testing.assert_array_equal(state.tokens, whole.tokens)
    assert generate._cache_size() == before


def test_the_cached_loop_equals_the_decoder_run_on_the_whole_sequence(model, batch) -> None:
    prompt, state = batch
    decoder = Decoder(model.config)
    weights = {"params": model.params["decoder"]}
    frames = decoder.apply(weights, state.tokens, method="embed_audio")
    ids = prompt.ids[1, : prompt.lengths[1]]
    text = decoder.apply(weights, ids, method="embed_text")
    audio = ids == model.config.audio.audio_token_id
    text = text.at[np.flatnonzero(audio)].set(prompt.voices[1, : audio.sum()])
    x = jnp.concatenate([text, frames[1]])[None]
    count = x.shape[1]
    cache = KVCache.empty(model.config, 1, count, x.dtype)
    hidden, _ = decoder.apply(weights, x, jnp.arange(count)[None], cache, count, method="extend")
    np.testing.assert_allclose(state.hidden[1], hidden[0, -1], atol=1e-4)


def test_an_ending_is_taken_but_not_before_it_is_plausible(model: Model) -> None:
    # With a semantic head of zeros all entries tie, and the first one allowed is [END_AUDIO].
    flow = dict(model.params["flow"])
    flow["semantic_codebook_output"] = jax.tree.map(
        jnp.zeros_like, flow["semantic_codebook_output"]
    )
    params = {"decoder": model.params["decoder"], "flow": flow}
    prompt = prompts_of(model, TEXTS, ["de_male"] * 3)
    state = run(model, prompt, requests_of(3, least_frames=[0, 4, FRAMES]), params=params)
    np.testing.assert_array_equal(state.frames, [0, 4, FRAMES])
    np.testing.assert_array_equal(state.stopped, [True, True, False])
    assert (state.tokens[1, :4, 0] == END_AUDIO + 1).all()
    assert (state.tokens[1, 4:] == EMPTY_AUDIO).all()


def test_the_budget_ends_a_speech_that_does_not(model: Model) -> None:
    prompt = prompts_of(model, TEXTS, ["de_male"] * 3)
    state = run(model, prompt, requests_of(3, most_frames=[3, FRAMES, 5]))
    np.testing.assert_array_equal(state.frames, [3, FRAMES, 5])
    assert not state.stopped.any()
    assert (state.tokens[0, 3:] == EMPTY_AUDIO).all()


def test_noise_depends_on_seed_and_frame_alone() -> None:
    noise = frame_noise(jnp.array([5, 9, 5]), jnp.array([2, 2, 3]), 36)
    alone = frame_noise(jnp.array([9]), jnp.array([2]), 36)
    np.testing.assert_array_equal(noise[1], alone[0])
    assert not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[0], noise[2])
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.6


def test_noise_is_standard_normal() -> None:
    noise = np.asarray(frame_noise(jnp.arange(500), jnp.arange(500), 36))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_the_noise_is_scaled(model: Model) -> None:
    prompt = prompts_of(model, TEXTS, ["de_male"] * 3)
    width = model.config.audio.n_acoustic_codebook
    seeds = jnp.arange(3, dtype=jnp.uint32)
    frames = jnp.arange(FRAMES)
    noise = jnp.stack([frame_noise(jnp.full(FRAMES, seed), frames, width) for seed in seeds])
    scales = jnp.array([0.25, 0.0, 1.5])
    ours = run(model, prompt, requests_of(3, noise_scale=scales))
    theirs = run(model, prompt, requests_of(3, noise=scales[:, None, None] * noise))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    whole = run(model, prompt, requests_of(3))
    assert (ours.tokens != whole.tokens).any(axis=(1, 2)).all()


def test_without_noise_no_seed_matters(model: Model) -> None:
    prompt = prompts_of(model, TEXTS[:1] * 2, ["de_male"] * 2)
    state = run(model, prompt, requests_of(2, seeds=[1, 2], noise_scale=[0.0, 0.0]))
    np.testing.assert_array_equal(state.tokens[0], state.tokens[1])


def rows_of(logits: np.ndarray, temperature: float, top_p: float, seeds) -> np.ndarray:
    count = len(seeds)
    requests = requests_of(
        count, seeds=seeds, temperature=[temperature] * count, top_p=[top_p] * count
    )
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits)))
    return np.asarray(choose_semantic(rows, requests, jnp.zeros(count, jnp.int32)))


def test_no_temperature_takes_the_likeliest() -> None:
    assert (rows_of([0.1, 3.0, 2.9], 0.0, 1.0, range(20)) == 1).all()


def test_a_temperature_draws_in_proportion() -> None:
    logits = np.log([0.6, 0.3, 0.1])
    share = np.bincount(rows_of(logits, 1.0, 1.0, range(3000)), minlength=3) / 3000
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.03)


def test_next_to_no_temperature_takes_the_likeliest() -> None:
    for temperature in (1e-30, 5e-38):
        for logits in ([-62.0, -60.0, -60.5], [20.0, 22.0, 21.0]):
            assert (rows_of([MASKED, *logits], temperature, 1.0, range(50)) == 2).all()


def test_top_p_draws_from_the_nucleus_alone() -> None:
    logits = np.log([0.1, 0.6, 0.3])
    assert set(rows_of(logits, 1.0, 0.5, range(200))) == {1}
    assert set(rows_of(logits, 1.0, 0.85, range(200))) == {1, 2}


def test_half_precision_weights_generate_valid_codes(model: Model) -> None:
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.speaker)
    prompt = prompts_of(model, TEXTS[:1], ["de_male"])
    state = run(model, prompt, requests_of(1), params=params)
    sizes = np.array(model.config.audio.codebook_sizes)
    assert state.hidden.dtype == jnp.bfloat16
    assert jnp.isfinite(state.hidden.astype(jnp.float32)).all()
    assert (state.tokens[0] < sizes).all()
    assert (state.tokens[0] > END_AUDIO).all()


@settings(max_examples=200)
@given(st.integers(1, 100_000), st.sampled_from([1, 8, 64, 128]))
def test_buckets_hold_their_size_and_waste_at_most_a_third(size: int, least: int) -> None:
    padded = bucket(size, least)
    assert padded >= size
    assert padded % least == 0
    assert padded == least or size > padded * 2 / 3 - least
    assert bucket(padded, least) == padded
