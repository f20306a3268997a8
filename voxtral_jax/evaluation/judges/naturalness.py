"""What listeners would say, predicted: DistillMOS for naturalness, DNSMOS for noise."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from typing import Any

import numpy as np
from jaxtyping import Float

from voxtral_jax.evaluation.judges import RATE, Sound
from voxtral_jax.evaluation.takes import REFERENCE, Clip

DIGITS = 4


class DistillMos:
    """Predicts one opinion, 1 to 5."""

    def __init__(self, threads: int = 1) -> None:
        import torch

        torch.set_num_threads(threads)
        with _torchaudio(), contextlib.redirect_stdout(io.StringIO()):
            import distillmos

            self._model = distillmos.ConvTransformerSQAModel().eval()
        self._torch = torch

    def wants(self, clip: Clip) -> bool:
        """Everything that says a text."""
        return clip.kind != REFERENCE

    def predict(self, samples: Float[np.ndarray, " S"]) -> float:
        """Opinion of samples of 16 kHz."""
        with self._torch.no_grad():
            return float(self._model(self._torch.from_numpy(np.asarray(samples))[None]))

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`mos`."""
        return {"mos": round(self.predict(sound.at_16k()), DIGITS)}


@contextlib.contextmanager
def _torchaudio() -> Any:
    """distillmos imports torchaudio to read files, which it never does here."""
    if "torchaudio" in sys.modules:
        yield
        return
    try:
        import torchaudio  # noqa: F401
    except ImportError:
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
        try:
            yield
        finally:
            del sys.modules["torchaudio"]
    else:
        yield


class DnsMos:
    """Predicts the opinion of speech with noise: of all, of the speech alone, and P.808's."""

    def __init__(self, threads: int = 1) -> None:
        import onnxruntime
        from speechmos import dnsmos

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        folder = f"{dnsmos.__file__.removesuffix('dnsmos.py')}dnsmos_models"
        sessions = [
            onnxruntime.InferenceSession(
                f"{folder}/{name}", options, providers=["CPUExecutionProvider"]
            )
            for name in ("sig_bak_ovr.onnx", "model_v8.onnx")
        ]
        # Its own sessions would use all cores.
        self._model = dnsmos.DNSMOS.__new__(dnsmos.DNSMOS)
        self._model.onnx_sess, self._model.p808_onnx_sess = sessions

    def wants(self, clip: Clip) -> bool:
        """Everything that says a text."""
        return clip.kind != REFERENCE

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`overall`, `signal`, `background` and `p808`, 1 to 5."""
        found = self._model(sound.at_16k(), RATE, False)
        names = {
            "overall": "ovrl_mos",
            "signal": "sig_mos",
            "background": "bak_mos",
            "p808": "p808_mos",
        }
        return {name: round(float(found[key]), DIGITS) for name, key in names.items()}
