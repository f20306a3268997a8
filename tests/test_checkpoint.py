"""Checkpoints load, round-trip and complain clearly; no pickle is ever executed."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from voxtral_jax import Model, Voice, encode_audio, load_model, make_voice, save_model, synthesize
from voxtral_jax.checkpoint.torch_voice import read_torch_tensor
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import CheckpointError, ConfigError, RequestError, VoiceError
from voxtral_jax.parameters import abstract_params, checkpoint_key, leaves
from voxtral_jax.training.sources import whole_weights
from voxtral_jax.voice import voice_files

WEIGHTS = "consolidated.safetensors"
ENCODER = ("audio_tokenizer.input_proj", "audio_tokenizer.encoder_blocks")


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    shutil.copytree(reference, directory)
    return directory


def change(directory: Path, edit) -> None:
    tensors = load_file(directory / WEIGHTS)
    edit(tensors)
    save_file(tensors, directory / WEIGHTS)


def without_encoder(directory: Path) -> Path:
    """Takes the encoder out of the checkpoint and puts it in a file of its own."""
    tensors = load_file(directory / WEIGHTS)
    encoder = {k: tensors.pop(k) for k in list(tensors) if k.startswith(ENCODER)}
    save_file(tensors, directory / WEIGHTS)
    save_file(encoder, directory / "encoder.safetensors")
    return directory / "encoder.safetensors"


def test_every_weight_keeps_its_value_and_type(model: Model, reference: Path) -> None:
    stored = load_file(reference / WEIGHTS)
    loaded = {checkpoint_key(path): leaf for path, leaf in leaves(model.params)}
    assert loaded.keys() == stored.keys()
    for key, leaf in loaded.items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, stored[key].astype(np.float32))


def test_half_precision_is_for_the_decoder_and_the_flow_alone(reference: Path) -> None:
    params = load_model(reference, dtype="bfloat16").params
    assert {x.dtype for x in jax.tree.leaves(params["decoder"])} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(params["flow"])} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(params["codec"])} == {jnp.dtype("float32")}


def test_folding_shares_what_it_does_not_change(model: Model) -> None:
    layer = ("decoder_blocks_1", "layers_0", "attention", "wq", "weight")
    ours, folded = model.params["codec"], model.codec
    for name in layer:
        ours, folded = ours[name], folded[name]
    assert ours.unsafe_buffer_pointer() == folded.unsafe_buffer_pointer()


def test_an_exported_model_is_the_same_file(model: Model, reference: Path, tmp_path: Path) -> None:
    save_model(model, tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out" / WEIGHTS), load_file(reference / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    again = load_model(tmp_path / "out", dtype="float32")
    assert again.config == model.config
    first, second = (synthesize(m, "Hello.", max_seconds=0.5) for m in (model, again))
    np.testing.assert_array_equal(first.samples, second.samples)
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    with pytest.raises(CheckpointError, match="choose another"):
        save_model(again, tmp_path / "out")


def test_missing_weights_are_named(copy: Path) -> None:
    change(copy, lambda tensors: tensors.pop("layers.1.attention.wq.weight"))
    with pytest.raises(
        CheckpointError, match=r"1 of \d+ weights are missing: layers.1.attention.wq"
    ):
        load_model(copy)


def test_extra_keys_are_named(copy: Path) -> None:
    change(copy, lambda tensors: tensors.update({"layers.9.stray": np.zeros(3, np.float32)}))
    with pytest.raises(CheckpointError, match=r"1 keys fit no weight.*layers\.9\.stray"):
        load_model(copy)


def test_wrong_shapes_are_named_with_both_shapes(copy: Path) -> None:
    change(copy, lambda tensors: tensors.update({"norm.weight": np.zeros(65, np.float32)}))
    with pytest.raises(
        CheckpointError, match=r"norm.weight is \[65\], params.json makes it \[64\]"
    ):
        load_model(copy)


def test_long_lists_of_culprits_are_cut(copy: Path) -> None:
    change(copy, lambda tensors: [tensors.pop(k) for k in list(tensors) if "layers.1" in k])
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        load_model(copy)


@pytest.mark.parametrize("damage", ["truncated", "not safetensors", "absent"])
def test_a_damaged_file_is_named(copy: Path, damage: str) -> None:
    file = copy / WEIGHTS
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "not safetensors":
        file.write_bytes(os.urandom(1000))
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load_model(copy)


def test_time_frequencies_are_computed_where_a_checkpoint_leaves_them_out(copy: Path) -> None:
    change(copy, lambda tensors: tensors.pop("acoustic_transformer.time_embedding.inv_freq"))
    ours = load_model(copy).params["flow"]["time_embedding"]["inv_freq"]
    np.testing.assert_allclose(ours, 10_000 ** (-np.arange(32) / 32), rtol=1e-5)
    config = VoxtralConfig.load(copy)
    started = whole_weights(str(copy), config, ("decoder", "flow"))  # training finds it whole, too
    np.testing.assert_array_equal(started["flow", "time_embedding", "inv_freq"], ours)
    change(copy, lambda tensors: tensors.pop("norm.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 of .* decoder\.norm\.weight among them"):
        whole_weights(str(copy), config, ("decoder", "flow"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("{}", "dim is missing"),
        ('{"dim": "64"}', "dim: expected int, got '64'"),
        ("[]", "expected an object"),
    ],
)
def test_a_bad_configuration_is_named(copy: Path, content: str, message: str) -> None:
    (copy / "params.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_model(copy)


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path, reference: Path) -> None:
    for name in (tmp_path / "nowhere", "../nowhere", "nowhere"):
        with pytest.raises(CheckpointError, match="neither a directory nor a hub id"):
            load_model(name)
    with pytest.raises(CheckpointError, match="is a file"):
        load_model(reference / "params.json")
    with pytest.raises(ConfigError, match=r"params\.json does not exist"):
        load_model(tmp_path)


def test_a_hub_id_that_cannot_be_fetched_says_so() -> None:
    with pytest.raises(CheckpointError, match="the hub did not supply it"):
        load_model("nobody/has-this-model")


@pytest.mark.parametrize("dtype", ["int16", "bf16"])
def test_an_unknown_dtype_is_refused(reference: Path, dtype: str) -> None:
    with pytest.raises(RequestError, match=f"float32, bfloat16, int8, got '{dtype}'"):
        load_model(reference, dtype=dtype)


def test_a_model_that_cannot_be_written_leaves_the_other_as_it_is(
    copy: Path, reference: Path, tmp_path: Path
) -> None:
    params = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps(params | {"guidance": 3.5}))
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="8 bits cannot be written"):
        save_model(load_model(reference, dtype="int8"), copy)
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


def test_no_heads_are_refused(copy: Path) -> None:
    params = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps(params | {"n_kv_heads": 0}))
    with pytest.raises(ConfigError, match="n_heads and n_kv_heads must be 1 or more"):
        load_model(copy)


def test_without_the_encoder_cloning_says_what_is_missing(copy: Path, reference: Path) -> None:
    without_encoder(copy)
    model = load_model(copy, dtype="float32")
    assert not model.can_clone
    with pytest.raises(CheckpointError, match="encoder_weights"):
        synthesize(model, "Hello.", ref=reference / "reference.wav")
    with pytest.raises(CheckpointError, match="encoder_weights"):
        encode_audio(model, np.zeros(24_000, np.float32), 24_000)
    assert synthesize(model, "Hello.", voice="de_male", max_seconds=0.4).seconds > 0


@pytest.mark.parametrize("prefix", ["audio_tokenizer.", ""])
def test_a_second_file_supplies_the_encoder(copy: Path, model: Model, prefix: str) -> None:
    encoder = without_encoder(copy)
    tensors = load_file(encoder)
    save_file({prefix + k.removeprefix("audio_tokenizer."): v for k, v in tensors.items()}, encoder)
    whole = load_model(copy, dtype="float32", encoder_weights=encoder)
    assert whole.can_clone
    samples = np.sin(np.arange(30_000) / 20).astype(np.float32)
    np.testing.assert_array_equal(
        encode_audio(whole, samples, 24_000), encode_audio(model, samples, 24_000)
    )


def test_a_second_file_without_an_encoder_is_refused(copy: Path, tmp_path: Path) -> None:
    without_encoder(copy)
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match="holds no weights of the codec's encoder"):
        load_model(copy, encoder_weights=tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(copy, encoder_weights=tmp_path / "absent.safetensors")


def test_a_partial_encoder_is_refused(copy: Path) -> None:
    change(copy, lambda t: t.pop("audio_tokenizer.encoder_blocks.0.layers.0.ffn_scale"))
    with pytest.raises(CheckpointError, match=r"missing.*encoder_blocks.0.layers.0.ffn_scale"):
        load_model(copy)


def test_abstract_weights_know_the_checkpoint(model: Model) -> None:
    shapes = {path: leaf.value.shape for path, leaf in leaves(abstract_params(model.config))}
    assert shapes == {path: leaf.shape for path, leaf in leaves(model.params)}


# Voices ------------------------------------------------------------------------------------------


def torch_file(path: Path, pickled: bytes, numbers: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("voice/data.pkl", pickled)
        archive.writestr("voice/data/0", numbers)
    return path


class Payload:
    """Pickles to a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_does_nothing_but_raise(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "executed"
    pickled = pickle.dumps(Payload(target), protocol)
    file = torch_file(tmp_path / "voice.pt", pickled)
    with pytest.raises(VoiceError, match=r"refused|malformed"):
        Voice.load(file)
    assert not target.exists()
    pickle.loads(pickled)
    assert target.exists(), "the payload must be live for this test to mean anything"


def test_calls_other_than_a_tensors_are_refused(tmp_path: Path) -> None:
    for program in (
        b"cos\nsystem\n(X\x04\x00\x00\x00exittR.",
        b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"(lp0\n.",
        b"",
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        os.urandom(200),
    ):
        with pytest.raises(VoiceError):
            Voice.load(torch_file(tmp_path / "voice.pt", program))


def unicode(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def tensor_program(kind: bytes, shape: tuple[int, int]) -> bytes:
    """A pickle of a tensor on a storage of this kind, an opcode that leaves one value."""

    def pair(numbers: tuple[int, int]) -> bytes:
        return b"".join(b"\x8a\x0a" + n.to_bytes(10, "little") for n in numbers) + b"\x86"

    storage = b"(" + unicode("storage") + kind + unicode("0") + unicode("cpu") + b"K\x01tQ"
    strides = pair((shape[1], 1))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return b"\x80\x02" + rebuild + storage + b"K\x00" + pair(shape) + strides + b"tR."


FLOATS = b"ctorch\nFloatStorage\n"


def test_a_pickle_that_would_end_the_process_is_refused(tmp_path: Path) -> None:
    nested = b")" + b"\x85" * 200_000
    for program, message in (
        (tensor_program(nested, (1, 1)), "malformed reference"),
        (tensor_program(FLOATS, (0, 2**70)), "not a readable file"),
    ):
        with pytest.raises(VoiceError, match=message):
            Voice.load(torch_file(tmp_path / "voice.pt", program))
    plain = torch_file(tmp_path / "voice.pt", tensor_program(FLOATS, (1, 1)), b"abcd")
    assert read_torch_tensor(plain).shape == (1, 1)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    file = tmp_path / "voice.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voice/data.pkl", b"\x80\x02" + bytes(range(256)) * 40)
    damaged = bytearray(file.read_bytes())
    damaged[60:90] = b"\xff" * 30
    file.write_bytes(damaged)
    with pytest.raises(VoiceError, match=r"voice\.pt is not a readable file"):
        Voice.load(file)


def test_numbers_that_no_voice_has_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    header = {"embedding": {"dtype": "F8_E4M3", "shape": [1, 4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(VoiceError, match=r"v\.safetensors is not a readable voice"):
        Voice.load(file)
    save_file({"embedding": np.ones((2, 4), np.complex64)}, file)
    with pytest.raises(VoiceError, match="of real numbers"):
        Voice.load(file)


def test_a_voice_made_anew_is_used_in_the_place_of_the_released_one(tmp_path: Path) -> None:
    folder = tmp_path / "voice_embedding"
    folder.mkdir()
    for name in ("a.pt", "a.safetensors", "b.pt", "notes.txt"):
        (folder / name).touch()
    files = {name: file.name for name, file in voice_files(tmp_path).items()}
    assert files == {"a": "a.safetensors", "b": "b.pt"}


def test_presets_are_read_as_saved(reference: Path, model: Model) -> None:
    tensor = read_torch_tensor(reference / "voice_embedding" / "de_male.pt")
    assert tensor.dtype == jnp.bfloat16
    voice = model.voice("de_male")
    assert voice.embedding.dtype == np.float32
    np.testing.assert_array_equal(voice.embedding, tensor.astype(np.float32))


def test_a_tensor_larger_than_its_numbers_is_refused(reference: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(reference / "voice_embedding" / "de_male.pt") as archive:
        pickled = archive.read("de_male/data.pkl")
    file = torch_file(tmp_path / "voice.pt", pickled, b"\0" * 100)
    with pytest.raises(VoiceError, match="truncated"):
        Voice.load(file)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04broken"])
def test_a_broken_voice_is_named(tmp_path: Path, content: bytes) -> None:
    for suffix in (".pt", ".safetensors"):
        file = tmp_path / f"broken{suffix}"
        file.write_bytes(content)
        with pytest.raises(VoiceError, match="broken"):
            Voice.load(file)
    with pytest.raises(VoiceError, match="does not exist"):
        Voice.load(tmp_path / "absent.pt")
    with pytest.raises(VoiceError, match=r"ends in \.safetensors or \.pt"):
        Voice.load(tmp_path / "voice.bin")


def test_a_voice_is_saved_and_loaded_whole(model: Model, reference: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="3 s"):
        voice = make_voice(model, reference / "reference.wav")
    voice.save(tmp_path / "me.safetensors")
    again = Voice.load(tmp_path / "me.safetensors")
    assert again.name == voice.name == "reference"
    np.testing.assert_array_equal(again.embedding, voice.embedding)
    np.testing.assert_array_equal(again.codes, voice.codes)
    assert os.listdir(tmp_path) == ["me.safetensors"]
    with pytest.raises(VoiceError, match=r"saved as \.safetensors"):
        voice.save(tmp_path / "me.pt")
    with pytest.raises(VoiceError, match="cannot write"):
        voice.save(tmp_path / "nowhere" / "me.safetensors")


def test_a_voice_of_another_width_is_refused(model: Model) -> None:
    stranger = Voice("stranger", np.zeros((5, 32), np.float32))
    with pytest.raises(VoiceError, match=r"is \[5, 32\], this model needs \[frames, 64\]"):
        synthesize(model, "Hello.", voice=stranger)
    with pytest.raises(VoiceError, match=r"is \[64\], this model needs"):
        synthesize(model, "Hello.", voice=Voice("flat", np.zeros(64, np.float32)))


def test_voices_that_are_no_matrix_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros(3), np.zeros((0, 4)), np.full((2, 2), np.nan)):
        save_file({"embedding": array.astype(np.float32)}, tmp_path / "v.safetensors")
        with pytest.raises(VoiceError, match=r"v\.safetensors"):
            Voice.load(tmp_path / "v.safetensors")
    save_file({"other": np.zeros((2, 2), np.float32)}, tmp_path / "v.safetensors")
    with pytest.raises(VoiceError, match="no 'embedding'"):
        Voice.load(tmp_path / "v.safetensors")


@pytest.mark.parametrize("name", ["nobody", "../voice_embedding/de_male", "de_male.pt", ""])
def test_only_listed_voices_are_opened(model: Model, name: str) -> None:
    with pytest.raises(VoiceError, match="choose from de_male, neutral_female"):
        synthesize(model, "Hello.", voice=name)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("voice/data.pkl", "w") as member,
    ):
        for _ in range(300):
            member.write(b"\0" * 2**20)
    (tmp_path / "bomb.pt").write_bytes(buffer.getvalue())
    with pytest.raises(VoiceError, match="larger than a voice can be"):
        Voice.load(tmp_path / "bomb.pt")
