"""One HTML file, pictures and sound included, that shows clips before and after augmentation."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
import soundfile

from audiotag.frontend import FRAME_SHIFT, SAMPLING_RATE

STYLE = """
body { font-family: sans-serif; margin: 2em; color: #222; }
section { border-top: 1px solid #bbb; padding: 1em 0; }
.takes { display: flex; flex-wrap: wrap; gap: 1.5em; }
figure { margin: 0; width: 30em; }
img { width: 100%; display: block; }
audio { width: 100%; }
figcaption { font-size: 90%; }
pre { background: #f4f4f4; padding: 1em; overflow: auto; }
"""


@dataclass(frozen=True)
class Take:
    """A clip in one state.

    Args:
        title: such as "as it is" or "epoch 2".
        features: (T,F) as the encoder gets them.
        labels: names and weights of its classes.
        samples: (S,) at 16 kHz, or None where there are stored features only.
        note: why there is no sound, or anything else worth saying.
    """

    title: str
    features: np.ndarray
    labels: list[tuple[str, float]]
    samples: np.ndarray | None = None
    note: str = ""


@dataclass(frozen=True)
class Example:
    """A clip as it is and after each of some augmentations."""

    id: str
    takes: list[Take]


def write_page(title: str, settings: str, examples: list[Example]) -> str:
    """The page as text.

    Args:
        title: heading.
        settings: the augmentation's part of the configuration, as YAML.
        examples: what to show.
    """
    parts = [
        f"<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>",
        f"<pre>{html.escape(settings)}</pre>",
    ]
    for example in examples:
        # One scale of colours for all takes of a clip, so that they can be compared.
        lowest = min(float(np.percentile(take.features, 1)) for take in example.takes)
        highest = max(float(take.features.max()) for take in example.takes)
        figures = "".join(figure(take, lowest, highest) for take in example.takes)
        parts.append(f"<section><h2>{html.escape(example.id)}</h2><div class=takes>{figures}</div></section>")
    return "\n".join([*parts, "</html>\n"])


def figure(take: Take, lowest: float, highest: float) -> str:
    """Picture, sound and labels of one take."""
    labels = ", ".join(
        html.escape(name if weight == 1 else f"{name} ({weight:.2f})") for name, weight in take.labels
    )
    picture = data_uri(spectrogram(take.features, lowest, highest), "image/png")
    sound = ""
    if take.samples is not None:
        sound = f'<audio controls preload=none src="{data_uri(wav(take.samples), "audio/wav")}"></audio>'
    note = f"<br>{html.escape(take.note)}" if take.note else ""
    return (
        f'<figure><img alt="log-mel features" src="{picture}">{sound}'
        f"<figcaption><b>{html.escape(take.title)}</b>: {labels or 'no labels'}{note}</figcaption></figure>"
    )


def spectrogram(features: np.ndarray, lowest: float, highest: float) -> bytes:
    """PNG of features (T,F), low frequencies at the bottom, time in seconds."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6, 2.4), dpi=100, layout="constrained")
    axes = canvas.subplots()
    seconds = len(features) * FRAME_SHIFT / SAMPLING_RATE
    image = axes.imshow(
        features.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, features.shape[1]),
        vmin=lowest,
        vmax=highest,
        interpolation="nearest",
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel bin")
    canvas.colorbar(image)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def wav(samples: np.ndarray) -> bytes:
    """16-bit WAV of samples; what exceeds full scale is clipped, as it would be when played."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Content that a page carries in itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
