"""Each stage learns, chains with the next, and ends as a model that speaks."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import soundfile
from safetensors.numpy import save_file
from small import run

from voxtral_jax import Voice, encode_audio, load_model, synthesize
from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, read_tensors
from voxtral_jax.cloning import voice_from_codes
from voxtral_jax.errors import CheckpointError, ConfigError, DataError, VoiceError
from voxtral_jax.parameters import leaves
from voxtral_jax.training.checkpoints import run_weights
from voxtral_jax.training.data.shards import CodeSource
from voxtral_jax.training.judging import Scores, Spoken
from voxtral_jax.training.speaking import prompts_of


@dataclasses.dataclass(frozen=True)
class World:
    """What the stages leave behind, one after the other."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.json"

    @property
    def manifest(self) -> Path:
        return self.root / "audio" / "manifest.jsonl"

    @property
    def codec(self) -> Path:
        return self.root / "codec"

    @property
    def codes(self) -> Path:
        return self.root / "codes"

    @property
    def speech(self) -> Path:
        return self.root / "speech"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A codec and a speech model, trained on a few seconds of sound."""
    world = World(tmp_path_factory.mktemp("world"))
    small.small_config().save(world.params)
    small.write_recordings(world.manifest.parent)
    run("codec", small.codec_table(world.params, world.manifest, world.codec, 60))
    run(
        "tokenize",
        {"codec": str(world.codec), "manifest": str(world.manifest), "out": str(world.codes)},
    )
    table = small.speech_table(world.params, world.codes, world.speech, 80)
    run("speech", table | {"codec": str(world.codec)})
    return world


def test_the_codec_overfits_a_few_seconds(world: World) -> None:
    metrics = small.read_metrics(world.codec)
    first, last = metrics[0], metrics[-1]
    assert last["stft"] < 0.3 * first["stft"]
    assert last["distillation"] < 0.7 * first["distillation"]
    assert {"usage", "perplexity", "commitment", "waveform"} <= last.keys()
    assert last["skipped"] == 0


def test_the_speech_model_overfits_a_few_seconds(world: World) -> None:
    metrics = small.read_metrics(world.speech)
    assert metrics[-1]["semantic"] < 0.3 * metrics[0]["semantic"]
    assert metrics[-1]["flow"] < 0.7 * metrics[0]["flow"]


def test_recordings_played_faster_are_of_other_speakers(world: World, tmp_path: Path) -> None:
    run(
        "tokenize",
        {
            "codec": str(world.codec),
            "manifest": str(world.manifest),
            "out": str(tmp_path),
            "speeds": [1.0, 1.25],
            "workers": 1,
        },
    )
    found, alone = CodeSource(tmp_path), CodeSource(world.codes)
    entries = found.entries
    usual = {entry.key: entry for entry in entries if "@" not in entry.key}
    faster = {entry.key.removesuffix("@1.25"): entry for entry in entries if "@" in entry.key}
    assert usual.keys() == faster.keys() == {entry.key for entry in alone.entries}
    # A process that reads, and other recordings beside it, change nothing.
    records = {entry.key: found[number] for number, entry in enumerate(entries)}
    for number in range(len(alone)):
        expected = alone[number]
        np.testing.assert_array_equal(records[expected.key].codes, expected.codes)
        np.testing.assert_array_equal(records[expected.key].speech, expected.speech)
    for key, entry in usual.items():
        assert faster[key].speaker == f"{entry.speaker}@1.25"
        assert faster[key].texts == entry.texts
        assert faster[key].frames == pytest.approx(entry.frames / 1.25, abs=2)


def test_recordings_that_failed_are_as_few_the_second_time(world: World, tmp_path: Path) -> None:
    manifest = small.write_recordings(tmp_path / "audio", 4)
    soundfile.write(tmp_path / "audio" / "2.wav", np.zeros(small.RATE), small.RATE)
    table = {
        "codec": str(world.codec),
        "manifest": str(manifest),
        "out": str(tmp_path / "codes"),
        "most_broken": 0.3,
    }
    first, second = run("tokenize", table), run("tokenize", table)
    assert "3 encoded, 0 were there already" in first
    assert "0 encoded, 3 were there already" in second
    with pytest.raises(DataError, match="1 of 4 recordings could not be read"):
        run("tokenize", table | {"most_broken": 0.2})


def test_constants_and_codebook_are_moved_by_no_gradient(world: World) -> None:
    weights = run_weights(world.speech)
    half = small.small_config().flow.dim // 2
    expected = 10_000.0 ** (-np.arange(half) / half)
    frequencies = weights["flow", "time_embedding", "inv_freq"]
    np.testing.assert_allclose(frequencies, expected, rtol=1e-6)


@pytest.mark.parametrize("weights", [[1.0] * 3, [1.0, 1.0, 1.0, -1.0], [0.0] * 4])
def test_weights_that_do_not_fit_the_latents_are_refused(world: World, tmp_path, weights) -> None:
    table = small.speech_table(world.params, world.codes, tmp_path / "run", 1)
    table["losses"] = {"latent_weights": weights}
    with pytest.raises(ConfigError, match=r"latent_weights .* give 4"):
        run("speech", table)
    assert not (tmp_path / "run").exists()


def test_the_exported_model_repeats_the_trainers_own_codes(world: World, tmp_path: Path) -> None:
    recording = world.manifest.parent / "0.wav"
    stale = tmp_path / "model" / "voice_embedding" / "earlier.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    entry = {"name": "it_male_hum", "audio": str(recording), "default_for": "it"}
    (tmp_path / "presets.json").write_text(json.dumps([entry]))
    run(
        "export",
        {
            "speech": str(world.speech),
            "codec": str(world.codec),
            "out": str(tmp_path / "model"),
            "dtype": "float32",
            "voices": {"humming": str(recording)},
            "presets": str(tmp_path),
        },
    )
    model = load_model(tmp_path / "model", dtype="float32")
    heard = np.load(world.codec / "validation" / "60.npz")
    samples = small.hum(1.6, 120, 0)[: round(1.2 * small.RATE) // 1920 * 1920]
    # The recording was written with 16 bits.
    samples = np.round(samples * 2**15) / 2**15
    np.testing.assert_array_equal(encode_audio(model, samples, small.RATE), heard["utterance-0"])

    said = np.load(world.speech / "validation" / "80.npz")
    for prompt in prompts_of(CodeSource(world.codes), 2):
        voice = voice_from_codes(model, prompt.codes, prompt.name)
        speech = synthesize(model, prompt.text, voice=voice)
        np.testing.assert_array_equal(speech.codes, said[prompt.name])
    assert isinstance(model.voice("humming"), Voice)
    assert model.voice(language="it").name == "it_male_hum"
    assert set(model.voices) == {"humming", "it_male_hum"}


def test_the_mean_of_two_models_is_exported(world: World, tmp_path: Path) -> None:
    table: dict[str, Any] = {"speech": str(world.speech), "codec": str(world.codec)}
    table["dtype"] = "float32"
    recording = str(world.manifest.parent / "0.wav")
    run("export", table | {"out": str(tmp_path / "one"), "voices": {"humming": recording}})
    weights = read_tensors(tmp_path / "one" / WEIGHTS_FILE)
    embeddings = "mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"
    moved = {name: weights[name] + 1 for name in ("norm.weight", embeddings)}
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    save_file(weights | moved, tmp_path / "other" / WEIGHTS_FILE)
    before = load_model(tmp_path / "one").voice("humming")
    voice = tmp_path / "one" / "voice_embedding" / "humming.safetensors"
    dataclasses.replace(before, name="../other").save(voice)
    table |= {"mean_with": str(tmp_path / "other"), "presets_of": str(tmp_path / "one")}
    run("export", table | {"out": str(tmp_path / "mean")})
    for name, leaf in read_tensors(tmp_path / "mean" / WEIGHTS_FILE).items():
        np.testing.assert_allclose(leaf, weights[name] + 0.5 * (name in moved), rtol=1e-6)

    # A voice that is kept has the same codes, and the embeddings of the new weights.
    after = load_model(tmp_path / "mean").voice("humming")
    np.testing.assert_array_equal(after.codes, before.codes)
    shift = 0.5 * before.codes.shape[1]
    np.testing.assert_allclose(after.embedding, before.embedding + shift, rtol=1e-4, atol=1e-4)

    for codes, message in (
        (None, "humming .* has no codes"),
        (before.codes + 99, "humming .*: codes must"),
    ):
        dataclasses.replace(before, codes=codes).save(voice)
        with pytest.raises(VoiceError, match=message):
            run("export", table | {"out": str(tmp_path / "wrong")})
    voice.unlink()
    with pytest.raises(VoiceError, match="no preset voices"):
        run("export", table | {"out": str(tmp_path / "wrong")})
    del table["presets_of"]
    fewer = {name: leaf for name, leaf in weights.items() if name != "norm.weight"}
    save_file(fewer, tmp_path / "other" / WEIGHTS_FILE)
    with pytest.raises(ConfigError, match=r"only one has decoder\.norm"):
        run("export", table | {"out": str(tmp_path / "wrong")})
    assert not (tmp_path / "wrong").exists()


def test_a_decoder_of_another_run_is_exported(world: World, tmp_path: Path) -> None:
    table = {"speech": str(world.speech), "codec": str(world.codec), "dtype": "float32"}
    run("export", table | {"out": str(tmp_path / "one")})
    weights = read_tensors(tmp_path / "one" / WEIGHTS_FILE)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    changed = {
        name: x + 1 if name.startswith("audio_tokenizer") else x for name, x in weights.items()
    }
    save_file(changed, tmp_path / "other" / WEIGHTS_FILE)
    both = table | {"decoder": str(tmp_path / "other"), "out": str(tmp_path / "both")}
    run("export", both)
    moved = set()
    for name, leaf in read_tensors(tmp_path / "both" / WEIGHTS_FILE).items():
        if not np.array_equal(leaf, weights[name]):
            np.testing.assert_allclose(leaf, changed[name], rtol=1e-5)
            moved.add(name.removeprefix("audio_tokenizer.").split(".")[0])
    assert moved == {"decoder_blocks", "output_proj"}

    mean = table | {"decoder": table["codec"], "decoder_mean_with": str(tmp_path / "other")}
    mean["out"] = str(tmp_path / "mean")
    run("export", mean)
    other = read_tensors(tmp_path / "both" / WEIGHTS_FILE)
    for name, leaf in read_tensors(tmp_path / "mean" / WEIGHTS_FILE).items():
        np.testing.assert_allclose(leaf, (weights[name] + other[name]) / 2, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="needs decoder"):
        run("export", {name: x for name, x in mean.items() if name != "decoder"})


def test_adapters_alone_are_trained_and_exported(world: World, tmp_path: Path) -> None:
    base = tmp_path / "base"
    sources = {"speech": str(world.speech), "codec": str(world.codec), "dtype": "float32"}
    run("export", sources | {"out": str(base)})
    out = tmp_path / "lora"
    table = small.speech_table(world.params, world.codes, out, 6)
    table["data"] |= {"validation": None}
    run("speech", table | {"start": str(base), "lora": {"rank": 2}})
    trained = run_weights(out)
    assert {path[-1] for path in trained} == {"lora_a", "lora_b"}
    assert any(np.abs(leaf).max() > 0 for path, leaf in trained.items() if path[-1] == "lora_b")

    # A run of adapters is no whole model: nothing that stays frozen begins at random.
    again = small.speech_table(world.params, world.codes, tmp_path / "again", 6)
    with pytest.raises(CheckpointError, match=r"lora lacks \d+ of the \d+ weights"):
        run("speech", again | {"start": str(out), "lora": {"rank": 2}})

    run("export", sources | {"speech": str(out), "out": str(tmp_path / "merged")})
    adapter = {"speech": str(out), "out": str(tmp_path / "adapter"), "adapter_only": True}
    with pytest.raises(ConfigError, match="not for adapters"):
        run("export", adapter | {"mean_with": str(base)})
    run("export", adapter)
    merged = load_model(tmp_path / "merged", dtype="float32")
    adapted = load_model(base, dtype="float32", adapter=tmp_path / "adapter/adapter.safetensors")
    before = dict(leaves(load_model(base, dtype="float32").params))
    changed = set()
    for (path, ours), (_, theirs) in zip(
        leaves(merged.params), leaves(adapted.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
        if not np.array_equal(ours, before[path]):
            changed.add(path[0:2])
    assert changed
    assert all(part[1].startswith("layers") for part in changed)


def check_begins_alike(stage: str, start: Path, tables: Sequence[dict[str, Any]]) -> None:
    """Runs two steps of each from the same weights; the first step's loss is the same."""
    losses = []
    for table in tables:
        table["data"] |= {"validation": None}
        run(stage, table | {"start": str(start)})
        losses.append(small.read_metrics(Path(table["run"]["out"]))[0]["loss"])
    assert losses == pytest.approx(losses[:1] * len(losses), rel=1e-5)


def test_a_deeper_model_begins_as_the_one_it_starts_from(world: World, tmp_path: Path) -> None:
    config = small.small_config()
    deeper = dataclasses.replace(config, n_layers=config.n_layers + 2)
    deeper.save(tmp_path / "deeper.json")
    same = small.speech_table(world.params, world.codes, tmp_path / "same", 2)
    more = small.speech_table(tmp_path / "deeper.json", world.codes, tmp_path / "deeper", 2)
    check_begins_alike("speech", world.speech, (same, more))
    trained = run_weights(tmp_path / "deeper")
    last = f"layers_{deeper.n_layers - 1}"
    assert np.any(trained["decoder", last, "feed_forward", "w2", "weight"])


def test_a_deeper_codec_begins_as_the_one_it_starts_from(world: World, tmp_path: Path) -> None:
    data = small.small_config().to_dict()
    data["multimodal"]["audio_tokenizer_args"]["decoder_transformer_lengths_str"] = "1,2"
    data["multimodal"]["audio_tokenizer_args"]["encoder_transformer_lengths_str"] = "2,1"
    (tmp_path / "deeper.json").write_text(json.dumps(data))
    same = small.codec_table(world.params, world.manifest, tmp_path / "same", 2)
    more = small.codec_table(tmp_path / "deeper.json", world.manifest, tmp_path / "deeper", 2)
    check_begins_alike("codec", world.codec, (same, more))
    trained = run_weights(tmp_path / "deeper")
    assert np.any(trained["codec", "decoder_blocks_3", "layers_1", "feed_forward", "w2", "weight"])

    shallow, deep = run_weights(world.codec), trained
    for (codec, encoder), (decoder, played) in itertools.permutations(
        [(world.codec, shallow), (tmp_path / "deeper", deep)]
    ):
        sources = {"speech": str(world.speech), "codec": str(codec), "decoder": str(decoder)}
        run("export", sources | {"dtype": "float32", "out": str(tmp_path / "both")})
        exported = dict(leaves(load_model(tmp_path / "both", dtype="float32").params))
        parts = (("encoder", encoder), ("decoder", played))
        expected = {
            path: leaf
            for part, weights in parts
            for path, leaf in weights.items()
            if path[0] == "codec" and path[1].startswith(part)
        }
        ours = {path for path in exported if path[1].startswith(("encoder", "decoder"))}
        assert ours == expected.keys()
        for path, leaf in expected.items():
            np.testing.assert_array_equal(exported[path], leaf)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [("attn_sliding_window_size", "other sizes than that of"), ("acoustic_codebook_size", "fit")],
)
def test_a_decoder_of_another_codec_is_refused(
    world: World, tmp_path: Path, changed: str, problem: str
) -> None:
    data = small.small_config().to_dict()
    data["multimodal"]["audio_tokenizer_args"][changed] += 2
    if changed == "acoustic_codebook_size":
        data["multimodal"]["audio_model_args"][changed] += 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "params.json").write_text(json.dumps(data))
    sources = {"speech": str(world.speech), "codec": str(world.codec)}
    both = {"decoder": str(tmp_path / "other"), "out": str(tmp_path / "both")}
    with pytest.raises(ConfigError, match=problem):
        run("export", sources | both)
    assert not (tmp_path / "both").exists()


def test_an_adapter_that_does_not_fit_is_refused(world: World, reference, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(reference, adapter=tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(reference, adapter=world.params)
    file, name = tmp_path / "adapter.safetensors", "layers.0.attention.wq"
    for shapes in (((2, 64), (64,)), ((64,), (64, 2)), ((2, 64), (64, 3)), ((2, 63), (64, 2))):
        pair = zip(("lora_a", "lora_b"), shapes, strict=True)
        save_file({f"{name}.{leaf}": np.zeros(shape, np.float32) for leaf, shape in pair}, file)
        with pytest.raises(CheckpointError, match=rf"{name} is .* which does not make the model's"):
            load_model(reference, adapter=file)


class LikesShort:
    """Judges by length alone, so that a preference can be seen."""

    def __call__(self, spoken: Spoken) -> Scores:
        assert len(spoken.reference)
        assert spoken.sample_rate == small.RATE
        return Scores(word_errors=len(spoken.samples) / small.RATE, similarity=0.0)


def test_preference_tuning_prefers_the_winners(world: World, tmp_path: Path) -> None:
    table: dict[str, Any] = small.common(tmp_path / "dpo", 12, 1e-3) | {
        "start": str(world.speech),
        "codec": str(world.codec),
        "judge": f"{__name__}:LikesShort",
        "candidates": {"codes": str(world.codes), "count": 3, "temperature": 2.0, "top_p": 1.0},
        "ranking": {"least_margin": 0.01},
        "data": {"batch_size": 1},
        "losses": {"dtype": "float32"},
    }
    # Some libraries take no more than 32 bits.
    table["run"]["seed"] += 2**32
    run("dpo", table)
    metrics = small.read_metrics(tmp_path / "dpo")
    assert metrics[0]["semantic_dpo"] == pytest.approx(np.log(2), rel=1e-4)
    assert metrics[0]["flow_dpo"] == pytest.approx(np.log(2), rel=1e-4)
    assert np.mean([line["semantic_margin"] for line in metrics[-4:]]) > 1
    assert np.mean([line["semantic_dpo"] for line in metrics[-4:]]) < np.log(2)
    # What was spoken is not spoken again: the second run only has to read it.
    table["judge"] = "math:nan"
    table["run"] |= {"steps": 13}
    run("dpo", table)
    assert small.read_metrics(tmp_path / "dpo")[-1]["step"] == 13
    table["losses"] |= {"latent_weights": [1.0] * 3}
    with pytest.raises(ConfigError, match=r"latent_weights .* give 4"):
        run("dpo", table)


def test_another_model_may_not_continue_a_run(world: World) -> None:
    other = dataclasses.replace(small.small_config(), hidden_dim=48)
    path = world.root / "other.json"
    other.save(path)
    with pytest.raises(CheckpointError, match=r"another run\.out"):
        run("codec", small.codec_table(path, world.manifest, world.codec, 61))
