"""Codes as a speech model draws them after the recording's own, and a decoder that learns them."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from small import run

from voxtral_jax.codec.quantizer import codebook_table
from voxtral_jax.config import TOKEN_OFFSET
from voxtral_jax.decoder.generate import (
    Frame,
    Requests,
    append_frame,
    embed_frames,
    make_frame,
    prefill,
)
from voxtral_jax.decoder.prompt import batch_prompts, prompt_ids, voice_tokens
from voxtral_jax.errors import ConfigError, DataError, RequestError
from voxtral_jax.flow import Sampler, time_table
from voxtral_jax.kernels.fsq import code_values
from voxtral_jax.parameters import unflatten
from voxtral_jax.training.codec import rebuild
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.crops import crop_batches
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.plan import PackingSettings, Planner
from voxtral_jax.training.data.recordings import read_utterance
from voxtral_jax.training.data.references import as_reference
from voxtral_jax.training.data.shards import CodeSource, CodeWriter
from voxtral_jax.training.distillation import Nothing
from voxtral_jax.training.encoding import given_latents
from voxtral_jax.training.envelope import BOUND, EnvelopeSettings
from voxtral_jax.training.pitch import LATENTS
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.recipe import CodecLosses, CodecTraining
from voxtral_jax.training.sources import source_weights
from voxtral_jax.training.speaking import PARTS, stage_tokenizer

CONFIG = small.small_config()
FRAME = CONFIG.codec.frame_samples
PACKING = {"row_tokens": 128, "row_targets": 64, "prompt_seconds": [1.0, 1.5]}


@dataclasses.dataclass(frozen=True)
class World:
    """What the stages before leave behind."""

    root: Path

    @property
    def table(self) -> dict[str, object]:
        """Settings of `redraw`."""
        return {
            "speech": str(self.root / "speech"),
            "codes": str(self.root / "codes"),
            "out": str(self.root / "drawn"),
            "packing": PACKING,
            "batch_size": 2,
        }

    @property
    def manifest(self) -> Path:
        return self.root / "audio" / "manifest.jsonl"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A codec and a speech model that learned next to nothing, and codes."""
    world = World(tmp_path_factory.mktemp("world"))
    CONFIG.save(world.root / "params.json")
    small.write_recordings(world.manifest.parent)
    params, codec, codes = (world.root / name for name in ("params.json", "codec", "codes"))
    run("codec", small.codec_table(params, world.manifest, codec, 1))
    run("tokenize", {"codec": str(codec), "manifest": str(world.manifest), "out": str(codes)})
    run("speech", small.speech_table(params, codes, world.root / "speech", 3))
    run("redraw", world.table)
    return world


def test_each_frame_is_what_inference_makes_after_the_recordings_own(
    world: World, tmp_path: Path
) -> None:
    run("redraw", world.table | {"out": str(tmp_path), "noise_scale": 0.0, "guidance": 1.5})
    drawn = {one.key: one for one in CodeSource(tmp_path)}
    source, speech = CodeSource(world.root / "codes"), world.table["speech"]
    tokenizer = stage_tokenizer(CONFIG, str(speech))
    settings = PackingSettings(row_tokens=128, row_targets=64, prompt_seconds=(1.0, 1.5))
    plan = Planner(source.entries, tokenizer, settings, CONFIG.codec.frame_rate, 0).plan(0)
    params = unflatten(dict(source_weights(str(speech), CONFIG, PARTS)))
    sampler = Sampler(steps=CONFIG.flow.n_decoding_steps)
    table = time_table(params["flow"], CONFIG.audio, sampler, jnp.float32)
    for i in range(2):
        record, first = source[int(plan.targets[i])], plan.voice_first[i]
        voice = source[int(plan.voices[i])].codes[first : first + plan.voice_frames[i]]
        embedded = np.asarray(embed_frames(params, jnp.asarray(voice_tokens(voice)), config=CONFIG))
        ids = prompt_ids(CONFIG, tokenizer, record.texts[0], len(embedded), "en")
        frames, one = len(record.codes), jnp.ones(1)
        requests = Requests(
            seeds=jnp.zeros(1, jnp.uint32),
            guidance=1.5 * one,
            noise_scale=0 * one,
            temperature=0 * one,
            top_p=one,
            least_frames=jnp.full(1, frames, jnp.int32),
            most_frames=jnp.full(1, frames, jnp.int32),
        )
        prompt = batch_prompts([ids], [embedded])
        length = prompt.ids.shape[1] + frames
        state, _ = prefill(params, prompt, config=CONFIG, cache_length=length, most_frames=frames)
        for codes in record.codes:
            made = make_frame(params, CONFIG, sampler, table, state, requests)
            place = int(state.frames[0])
            np.testing.assert_array_equal(
                made.tokens[0, 1:] - TOKEN_OFFSET, drawn[record.key].codes[place, 1:]
            )
            own = Frame(jnp.asarray(codes + TOKEN_OFFSET)[None], made.flow)
            state = append_frame(params, CONFIG, state, own, requests)


def test_semantic_codes_stay_and_a_second_call_draws_nothing(world: World) -> None:
    before = {one.key: one for one in CodeSource(world.root / "codes")}
    after = {one.key: one for one in CodeSource(world.root / "drawn")}
    assert before.keys() == after.keys()
    for key, one in before.items():
        np.testing.assert_array_equal(after[key].codes[:, 0], one.codes[:, 0])
        assert (after[key].codes[:, 1:] != one.codes[:, 1:]).any()
        assert replace(after[key], codes=one.codes, speech=one.speech).texts == one.texts
    assert (
        run("redraw", world.table)[0]
        == f"0 drawn of {len(before)}, {len(before)} were there already"
    )


def test_a_call_that_was_stopped_goes_on_with_the_same_codes(world: World, tmp_path: Path) -> None:
    whole = {one.key: one.codes for one in CodeSource(world.root / "drawn")}
    half = list(CodeSource(world.root / "drawn"))[:2]
    with CodeWriter(tmp_path) as writer:
        for one in half:
            writer.write(one)
    run("redraw", world.table | {"out": str(tmp_path)})
    again = {one.key: one.codes for one in CodeSource(tmp_path)}
    assert again.keys() == whole.keys()
    for key, codes in whole.items():
        np.testing.assert_array_equal(again[key], codes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"noise_scale": 3.0}, RequestError, "noise_scale must be from"),
        ({"out": "codes"}, ConfigError, "a folder of its own"),
        ({"codes": "nowhere"}, DataError, "nowhere"),
    ],
)
def test_what_cannot_be_drawn_is_refused(world: World, change, error, message: str) -> None:
    change = {k: str(world.root / v) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises(error, match=message):
        run("redraw", world.table | change)


def test_crops_have_the_codes_of_their_frames(world: World) -> None:
    manifest = read_manifest(str(world.manifest), need_text=False, most_broken=0.0)
    source = CodeSource(world.root / "drawn")
    codes = {one.key: one.codes for one in source}
    batches = crop_batches(
        manifest,
        rate=small.RATE,
        crop_samples=8 * FRAME,
        frame_samples=FRAME,
        batch_size=4,
        seed=0,
        epochs=3,
        codes=source,
    )
    firsts = set()
    for batch in batches:
        for samples, number, known in zip(
            batch.samples, batch.utterances, batch.codes, strict=True
        ):
            one = manifest.utterances[number]
            whole, _ = as_reference(read_utterance(one, small.RATE), small.RATE, FRAME)
            of_it = codes[one.key]
            (place,) = [f for f in range(len(of_it) - 7) if np.array_equal(of_it[f : f + 8], known)]
            there = whole[place * FRAME :][: 8 * FRAME]
            np.testing.assert_array_equal(samples[: len(there)], there)
            firsts.add(place)
    assert len(firsts) > 3


def test_recordings_without_codes_stay_and_wrong_codes_are_told(
    world: World, tmp_path, caplog
) -> None:
    manifest = read_manifest(str(world.manifest), need_text=False, most_broken=0.0)
    records = list(CodeSource(world.root / "codes"))
    with CodeWriter(tmp_path / "some") as writer:
        writer.write(records[0])
        short = records[1]
        writer.write(replace(short, codes=short.codes[:-3], speech=short.speech[:-3]))

    def batch(folder: Path) -> CropBatch:
        return next(
            iter(
                crop_batches(
                    manifest,
                    rate=small.RATE,
                    crop_samples=8 * FRAME,
                    frame_samples=FRAME,
                    batch_size=4,
                    seed=0,
                    codes=CodeSource(folder),
                )
            )
        )

    made = batch(tmp_path / "some")
    known = {manifest.utterances[n].key: row for row, n in enumerate(made.utterances)}
    assert (made.codes[known[records[0].key]] >= 0).all()
    assert made.lengths[known[short.key]] == 0
    assert "make data.codes of data.manifest" in caplog.text
    others = [row for key, row in known.items() if key not in (records[0].key, short.key)]
    assert (made.codes[others] == -1).all()
    assert (made.lengths[others] > 0).all()
    with CodeWriter(tmp_path / "none") as writer:
        writer.write(replace(records[0], key="another"))
    with pytest.raises(DataError, match="none of 1 records of codes"):
        batch(tmp_path / "none")


def test_given_codes_are_what_is_decoded() -> None:
    codec = CONFIG.codec
    training = CodecTraining(
        config=codec,
        losses=CodecLosses(feature_matching=0.0),
        quantizer=QuantizerSettings(semantic_share=1.0, acoustic_share=1.0, noise_share=0.0),
        discriminators=None,
        distillation=Nothing(),
        envelope=EnvelopeSettings(exact_share=0.0),
        part="decoder",
    )
    weights = small.random_weights(training)
    random = np.random.default_rng(0)
    frames, levels = 6, codec.acoustic_codebook_size
    codes = np.concatenate(
        [
            random.integers(0, codec.semantic_codebook_size, (2, frames, 1)),
            random.integers(0, levels, (2, frames, codec.acoustic_dim)),
        ],
        axis=2,
    ).astype(np.int32)
    codes[1, 4:] = -1
    samples = np.stack([small.hum(frames * 0.08, 120 + 60 * i, i) for i in range(2)])
    lengths = np.full(2, frames * FRAME, np.int32)
    batch = CropBatch(samples, lengths, np.zeros(2, np.int32), {}, codes=codes)
    rebuilt = rebuild(training, weights, batch, jax.random.key(0), "all")
    plain = rebuild(training, weights, replace(batch, codes=None), jax.random.key(0), "all")
    book = weights["codec"]["quantizer"]["semantic_codebook"]
    entries = codebook_table(book["embedding_sum"], book["cluster_usage"])
    wanted = jnp.concatenate(
        [jnp.take(entries, codes[..., 0], axis=0), code_values(codes[..., 1:], levels)], axis=-1
    )
    known = codes[..., 0] >= 0
    np.testing.assert_allclose(rebuilt.quantized.latents[known], wanted[known], atol=1e-5)
    np.testing.assert_allclose(
        rebuilt.quantized.latents[~known], plain.quantized.latents[~known], atol=1e-5
    )
    assert not np.allclose(rebuilt.fake[0], plain.fake[0])


def test_their_pitch_is_that_of_what_is_to_be_given_back() -> None:
    codec = small.small_config().codec
    codec = replace(codec, acoustic_dim=LATENTS + 2)
    random = np.random.default_rng(1)
    codes = random.integers(0, 21, (1, 3, 1 + codec.acoustic_dim)).astype(np.int32)
    pitch = random.uniform(-BOUND, BOUND, (1, 3, LATENTS)).astype(np.float32)
    table = random.normal(size=(21, codec.semantic_dim)).astype(np.float32)
    latents = given_latents(codes, jnp.asarray(table), codec, jnp.asarray(pitch))
    acoustic = np.tanh(latents[..., codec.semantic_dim :])
    np.testing.assert_allclose(acoustic[..., -LATENTS:], pitch, atol=1e-5)
    values = code_values(jnp.asarray(codes[..., 1:3]), 21)
    np.testing.assert_allclose(acoustic[..., :2], values, atol=0.02)


def test_a_decoder_learns_them_alone(world: World, tmp_path: Path) -> None:
    table = small.codec_table(world.root / "params.json", world.manifest, tmp_path / "run", 25)
    table |= {"start": str(world.root / "codec"), "distillation": {"kind": "none"}}
    table["data"] |= {"codes": str(world.root / "drawn")}
    with pytest.raises(ConfigError, match="set part="):
        run("codec", table)
    run("codec", table | {"part": "decoder"})
    metrics = small.read_metrics(tmp_path / "run")
    assert metrics[-1]["stft"] < 0.7 * metrics[0]["stft"]
