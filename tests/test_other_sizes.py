"""Models of awkward sizes equal the plain numpy implementation in `tests/plain`.

It was written from the published description alone; here it writes new references, and the tests of
`test_reference.py` run against them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plain.odd import odd_params, skipping_params
from plain.write_reference import write_reference

TESTS = Path(__file__).parent


@pytest.mark.parametrize("params", [odd_params, skipping_params])
def test_other_sizes_equal_the_plain_implementation(params, reference: Path, tmp_path) -> None:
    write_reference(tmp_path, params(), reference / "tekken.json")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", TESTS / "test_reference.py"],
        env={**os.environ, "VOXTRAL_REFERENCE": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_the_plain_implementation_equals_the_reference(reference: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "plain.write_reference", "--check", reference],
        capture_output=True,
        text=True,
        cwd=TESTS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
