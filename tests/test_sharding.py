"""A mesh of eight (virtual) devices says what one device says."""

from pathlib import Path

import jax
import numpy as np
import pytest

from voxtral_jax import Model, VoxtralConfig, load_model, make_mesh, synthesize
from voxtral_jax.errors import RequestError
from voxtral_jax.parameters import abstract_params, checkpoint_key, leaves
from voxtral_jax.sharding import Rules

CONFIGS = Path(__file__).parents[1] / "configs"
TEXTS = ["One text.", "Another text, longer.", "A third.", "And a fourth text, the longest of all."]


@pytest.fixture(scope="module")
def expected(model: Model):
    return synthesize(model, TEXTS, max_seconds=1.2, seed=[1, 2, 3, 4])


@pytest.mark.parametrize(
    "shape",
    [{"tensor": 8}, {"data": 4, "tensor": 2}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}],
    ids=str,
)
def test_generation_on_a_mesh_makes_the_same_codes(reference: Path, expected, shape) -> None:
    mesh = make_mesh(**shape)
    assert mesh.size == 8
    model = load_model(reference, mesh=mesh, dtype="float32")
    weight = model.params["decoder"]["layers_0"]["feed_forward"]["w1"]["weight"]
    parts = shape.get("tensor", 1) * shape.get("fsdp", 1)
    assert weight.addressable_shards[0].data.size * parts == weight.size
    ours = synthesize(model, TEXTS, max_seconds=1.2, seed=[1, 2, 3, 4])
    for here, there in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(here.codes, there.codes)
        scale = np.abs(there.samples).max()
        assert np.abs(here.samples - there.samples).max() < 1e-4 * scale


def test_heads_are_never_cut(reference: Path) -> None:
    config = VoxtralConfig.load(reference)
    split = Rules.make(config, make_mesh(data=4, tensor=2))
    whole = Rules.make(config, make_mesh(tensor=8))
    weights = {checkpoint_key(path): leaf for path, leaf in leaves(abstract_params(config))}
    key = weights["layers.0.attention.wk.weight"]
    assert split.spec(key.names, key.value.shape)[0] == "tensor"
    assert whole.spec(key.names, key.value.shape)[0] is None


def test_the_released_model_is_split_evenly_over_eight_devices() -> None:
    config = VoxtralConfig.load(CONFIGS / "voxtral-4b")
    rules = Rules.make(config, make_mesh(tensor=8))
    total = held = 0
    for path, leaf in leaves(abstract_params(config)):
        size = int(np.prod(leaf.value.shape))
        share = np.prod(rules.sharding(leaf.names, leaf.value.shape).shard_shape(leaf.value.shape))
        if path[0] != "codec":
            total, held = total + size, held + int(share)
    assert held / total < 1.1 / 8


def test_too_few_devices_are_said_to_be_too_few() -> None:
    with pytest.raises(RequestError, match=r"needs 64 devices, 8 are here"):
        make_mesh(data=8, tensor=8)
    assert len(jax.devices()) == 8
