"""Eight virtual CPU devices for the mesh tests, the reference model, and a skip for GPU tests."""

import os
from pathlib import Path

from compiling import QUICK

# Before jax is imported anywhere: devices and precision cannot change afterwards.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK}")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest

from voxtral_jax import Model, load_model

# A GPU multiplies float32 with 10 bits unless told otherwise; the reference was made with 23.
jax.config.update("jax_default_matmul_precision", "highest")

REFERENCE = Path(__file__).parent / "data" / "reference"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if jax.default_backend() != "gpu":
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU; jax sees none here"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The small model that ships with the tests, in the released layout."""
    return REFERENCE


@pytest.fixture(scope="session")
def model(reference: Path) -> Model:
    """The small model, loaded."""
    return load_model(reference, dtype="float32")
