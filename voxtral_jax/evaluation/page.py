"""One page to listen to: players and spectrograms side by side, with texts and scores."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from voxtral_jax.evaluation.figures import Figures, Row
from voxtral_jax.evaluation.report import COLUMNS, cells, title
from voxtral_jax.evaluation.speaking import audio_file, read_clip
from voxtral_jax.evaluation.takes import LONG

BANDS, HOP, WINDOW = 80, 256, 1024
"""Mel bands, hop and window of the spectrograms, in samples."""
RANGE = 80.0
"""dB between the brightest and black."""
WIDEST = 400
"""Pixels of a spectrogram at most; longer ones are thinned out."""
COLOURS = np.array(
    [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]]
)
"""From silence to loud; evenly bright steps."""
COLOURS_KEPT = 64
"""Colours of a picture: a third of the bytes, and nobody sees it."""
SHOWN = ("wer", "cer", "similarity", "mos", "dnsmos", "pesq", "estoi", "drift")
STYLE = """
body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em;color:#222}
h3{margin:2em 0 .3em;font-weight:600}.row{display:flex;flex-wrap:wrap;gap:1em}
figure{margin:0;width:15em}figure img{width:100%;height:5em;display:block}
audio{width:100%;height:2em}figcaption{font-size:.85em}small{color:#666}
table{border-collapse:collapse;font-size:.85em}td,th{padding:.2em .6em;border-bottom:1px solid #ddd;
text-align:right}td:first-child,th:first-child{text-align:left}
"""


def spectrogram(samples: Float[np.ndarray, " S"], rate: int) -> UInt8[np.ndarray, "bands W 3"]:
    """Picture of the mel spectrogram, low bands at the bottom."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS
    )
    loudness = librosa.power_to_db(mel, ref=max(float(mel.max()), 1e-10), top_db=RANGE)
    level = 1 + loudness[::-1, :: max(1, -(-mel.shape[1] // WIDEST))] / RANGE
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(level, places, COLOURS[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def page(results: Mapping[str, Any], rows: Sequence[Row], out: Path, samples: int) -> str:
    """The page, with everything in it.

    Args:
        results: as in `results.json`.
        rows: from `make_rows`.
        out: folder with the clips.
        samples: sentences of each language; long texts come on top.
    """
    name = html.escape(f"{results['model']} on {results['set']}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{name}</h1>',
    ]
    for condition, languages in results["figures"].items():
        parts.append(f"<h2>{html.escape(title(condition))}</h2>{_table(languages)}")
    for language in dict.fromkeys(row.clip.language for row in rows):
        parts.append(f"<h2>{html.escape(language)}</h2>")
        for group in _groups(rows, language, samples):
            parts.append(f"<h3>{html.escape(group[0].clip.text)}</h3><div class=row>")
            parts += _references(group, out)
            parts += [_figure(row, out) for row in group]
            parts.append("</div>")
    return "\n".join(parts) + "\n"


def _groups(rows: Sequence[Row], language: str, samples: int) -> list[list[Row]]:
    """The rows of a sentence together: of the first sentences, and of long texts."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.clip.language == language:
            groups.setdefault(row.clip.name.partition("/")[2], []).append(row)
    short = [group for group in groups.values() if group[0].clip.kind != LONG]
    return short[:samples] + [group for group in groups.values() if group[0].clip.kind == LONG]


def _references(group: Sequence[Row], out: Path) -> list[str]:
    """The recordings that were cloned; of several lengths, each."""
    names = dict.fromkeys(row.clip.reference for row in group if row.clip.reference is not None)
    return [
        f"<figure>{_player(out, name)}<figcaption>reference<br>"
        f"<small>{html.escape(name.partition('/')[2])}</small></figcaption></figure>"
        for name in names
        if audio_file(out, name).exists()  # where it could not be made, nobody was cloned
    ]


def _figure(row: Row, out: Path) -> str:
    clip = row.clip
    scores = [
        f"{COLUMNS[name][0]} {COLUMNS[name][1].format(row.values[name])}"
        for name in SHOWN
        if name in row.values
    ]
    lines = [html.escape(title(clip.condition))]
    if scores:
        lines.append(f"<small>{html.escape(', '.join(scores))}</small>")
    if row.heard.get("whisper"):
        lines.append(f"<small>heard: {html.escape(row.heard['whisper'])}</small>")
    if clip.failure:
        lines.append(f"<small>{html.escape(clip.failure)}</small>")
    player = _player(out, clip.name) if clip.seconds else ""
    return f"<figure>{player}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _player(out: Path, name: str) -> str:
    """Spectrogram and player of a clip, both inside the page."""
    from PIL import Image

    from voxtral_jax.audio import encode

    samples, rate = read_clip(out, name)
    picture = io.BytesIO()
    Image.fromarray(spectrogram(samples, rate)).quantize(COLOURS_KEPT).save(picture, "PNG")
    image, sound = (
        base64.b64encode(data).decode()
        for data in (picture.getvalue(), encode(samples, rate, "mp3"))
    )
    return (
        f'<img alt="" src="data:image/png;base64,{image}">'
        f'<audio controls preload=none src="data:audio/mpeg;base64,{sound}"></audio>'
    )


def _table(languages: Mapping[str, Figures]) -> str:
    def row(tag: str, values: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(value)}' for value in values)}</tr>"

    heading, *others = cells(languages)
    return f"<table>{row('th', heading)}{''.join(row('td', one) for one in others)}</table>"
