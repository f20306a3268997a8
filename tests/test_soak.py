"""Clients of every kind at once, for seconds: `scripts/soak.py` does it for minutes."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from serving import SETTINGS, live

from voxtral_jax import Model
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.talk import Talk

for package in ("av", "fastapi_offline", "httpx2", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="needs voxtral-jax[serve]")

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from soak import KINDS, soak  # noqa: E402

from voxtral_jax.serving.http.app import create_app  # noqa: E402
from voxtral_jax.serving.http.settings import ServerSettings  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*3 s or more:UserWarning")


def talks() -> int:
    """Talks that something still holds."""
    gc.collect()
    # Not isinstance: it asks weak proxies, whose object may be gone.
    return sum(type(kept) is Talk for kept in gc.get_objects())


def test_a_server_stays_as_it_was(model: Model, tmp_path: Path) -> None:
    before = talks()
    with Engine(model, SETTINGS) as engine:
        with live(create_app(engine, ServerSettings(voices=tmp_path))) as (address, _):
            report = asyncio.run(soak(address, os.getpid(), seconds=8, clients=2 * len(KINDS)))
        assert not report.wrong
        assert set(report.answers) == set(KINDS)
        assert max(report.left.values()) <= 0, report.left
        assert engine.status.failures == 0
        assert talks() <= before
        assert not list(tmp_path.iterdir())


HEAPS = """
import ctypes, sys, threading

from voxtral_jax.serving.heaps import share_heaps

share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)


def hold():
    libc.malloc(50_000)
    together.wait()


threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
told = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_of_a_server_share_two_heaps(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", HEAPS, str(tmp_path / "told")], check=True)
    assert (tmp_path / "told").read_text().count("<heap nr=") == 2
