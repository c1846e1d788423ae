"""The log line of training: what TensorBoard shows of the updates since the last one, for people to read."""

from __future__ import annotations

import math

LR_GROUPS = "lr/"


def format_log(epoch: int, step: int, values: dict[str, float]) -> str:
    """One line of the figures that there are; what is 0 or 1 unless something happened is left out then.

    values: by TensorBoard tag, as `Meter.read` gives them, with `train/lr`, `lr/<group>` where there are
        several groups, and `train/scale` of fp16.
    """
    parts = [
        figure(values, "train/loss", "loss {:.4f}") + loss_parts(values),
        learning_rates(values),
        figure(values, "train/grad_norm", "grad norm {:.3g}"),
        figure(values, "clip/percent_clipped", "{:.0f}% clipped"),
        figure(values, "train/scale", "scale {:g}"),
        figure(values, "train/clips_per_s", "{:.1f} clips/s"),
        figure(values, "train/data_wait", "waiting for data {:.0%}"),
        figure(values, "train/mfu", "MFU {:.1%}"),
        figure(values, "train/memory_mib", "memory {:,.0f} MiB"),
        count(values, "train/skipped_updates", "update", "skipped"),
        count(values, "train/replaced_clips", "clip", "replaced"),
    ]
    return f"epoch {epoch} update {step}: " + ", ".join(filter(None, parts)).replace("%", " %")


def figure(values: dict[str, float], tag: str, layout: str) -> str:
    """A value in words; nothing where it is not known."""
    value = values.get(tag)
    return "" if value is None else layout.format(value)


def loss_parts(values: dict[str, float]) -> str:
    """What the loss is made of, in brackets; nothing where that is one part."""
    names = {"labels": "train/label_loss", "teacher": "train/teacher_loss", "features": "train/feature_loss"}
    parts = [f"{name} {values[tag]:.4f}" for name, tag in names.items() if tag in values]
    return f" ({', '.join(parts)})" if parts else ""


def learning_rates(values: dict[str, float]) -> str:
    """The rate, or the lowest and the highest where groups of parameters have their own."""
    rates = [value for tag, value in values.items() if tag.startswith(LR_GROUPS)]
    lowest, highest = f"{min(rates, default=math.nan):.3g}", f"{max(rates, default=math.nan):.3g}"
    if lowest == highest:
        return figure(values, "train/lr", "lr {:.3g}")
    return f"lr {lowest} to {highest}"


def count(values: dict[str, float], tag: str, what: str, done: str) -> str:
    """How often something happened; nothing where it never did."""
    number = round(values.get(tag, 0.0))
    return f"{number:,} {what}{'' if number == 1 else 's'} {done}" if number else ""
