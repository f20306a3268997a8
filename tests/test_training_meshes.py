"""Eight (virtual) devices learn what one device learns, and one continues what eight began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import small

from voxtral_jax.errors import ConfigError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes, recordings and codes."""
    root = tmp_path_factory.mktemp("data")
    small.small_config().save(root / "params.json")
    small.write_recordings(root / "audio")
    small.write_codes(root / "codes")
    return root


def codec_table(root: Path) -> dict[str, Any]:
    table = small.codec_table(root / "params.json", root / "audio/manifest.jsonl", root, 3)
    table["losses"]["feature_matching"] = 1.0
    table["discriminators"] |= {"windows": [76]}
    table["data"] |= {"batch_size": 8, "crop_seconds": 0.4}
    table["distillation"] = {"kind": "none"}
    # Adam divides a gradient by its own size: one that is rounding noise moves its weight by the
    # whole rate, either way. At 3e-3 that alone is 2.5e-4 of the loss on some processors.
    table["optimizer"] |= {"learning_rate": 3e-4}
    return table


def losses(
    stage: str, table: dict[str, Any], mesh: dict[str, int], out: Path, steps: int
) -> list[float]:
    """What a run on this mesh logs."""
    table = table | {"mesh": mesh, "run": table["run"] | {"out": str(out), "steps": steps}}
    table["data"] = table["data"] | {"validation": None}
    small.run(stage, table)
    return [line["loss"] for line in small.read_metrics(out)]


def test_the_codec_learns_the_same_on_a_mesh(root: Path, tmp_path: Path) -> None:
    table = codec_table(root)
    alone = losses("codec", table, {"data": 1}, tmp_path / "one", 3)
    metrics = small.read_metrics(tmp_path / "one")[-1]
    assert metrics["hinge"] > 0
    assert metrics["feature_matching"] > 0
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    np.testing.assert_allclose(losses("codec", table, mesh, tmp_path / "mesh", 3), alone, rtol=1e-4)


def test_the_speech_model_learns_the_same_on_meshes(root: Path, tmp_path: Path) -> None:
    table = small.speech_table(root / "params.json", root / "codes", root, 4)
    alone = losses("speech", table, {"data": 1}, tmp_path / "one", 4)
    data = losses("speech", table, {"data": 8}, tmp_path / "data", 4)
    np.testing.assert_allclose(data, alone, rtol=1e-4)
    split = losses("speech", table, {"fsdp": 4, "tensor": 2}, tmp_path / "split", 3)
    np.testing.assert_allclose(split, alone[:3], rtol=1e-4)
    # One device takes over where eight have stopped.
    rest = losses("speech", table, {"data": 1}, tmp_path / "split", 4)
    np.testing.assert_allclose(rest, alone, rtol=1e-4)


def test_a_batch_that_the_mesh_cannot_share_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose a multiple"):
        losses("codec", codec_table(root), {"data": 3}, tmp_path, 1)
    assert jax.device_count() == 8
