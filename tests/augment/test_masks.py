"""The three published forms of masking: widths, places, numbers and fill values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import assert_uniform, choices, clips_of, many_choices, noise

from audiotag.augment.clips import to_features
from audiotag.augment.masks import AstMasks, BeatsMasks, ZipformerMasks, real_spans, uniform_spans

ZIPFORMER = {
    "probability": 0.9,
    "freq_masks": 2,
    "freq_width": 27,
    "time_share": 0.15,
    "time_masks": 10,
    "time_width": 100,
}


def changed(masks, clips, drawn):
    """(B,T,F) booleans: what a mask has filled."""
    return (masks(clips, drawn).values != clips.values).numpy()


def runs(hidden):
    """(start, width) of the only stretch of each row of (B,N) booleans that has one."""
    rows = hidden[hidden.any(axis=1)]
    widths = rows.sum(axis=1)
    starts = rows.argmax(axis=1)
    for row, start, width in zip(rows, starts, widths, strict=True):
        assert row[start : start + width].all()
    return starts, widths


def test_whole_widths_and_places():
    spans = uniform_spans(choices(), (20000, 2), 27, 80)
    assert_uniform(spans.widths, 0, 26)
    assert (spans.starts >= 0).all()
    for width in (0, 26):
        assert_uniform(spans.starts[spans.widths == width], 0, 80 - width - 1)
    # An axis that is narrower than the masks is hidden whole at most.
    narrow = uniform_spans(choices(), (5000, 1), 27, 4)
    assert_uniform(narrow.widths, 0, 4)
    assert (narrow.starts + narrow.widths <= 4).all()


def test_real_widths_and_places():
    spans = real_spans(choices(), 40000, 48, 128)
    assert_uniform(spans.widths, 0, 47)
    # The start is drawn for the width before it was rounded down, which leaves out the last place of all.
    assert_uniform(spans.starts[spans.widths == 20], 0, 128 - 20 - 1)
    narrow = real_spans(choices(), 5000, 192, 10)
    assert_uniform(narrow.widths, 0, 9)
    assert (narrow.starts + narrow.widths <= 10).all()


@pytest.mark.parametrize(
    "frames, number, limit", [(400, 1, 60), (1000, 2, 75), (2000, 3, 100), (8000, 10, 100)]
)
def test_zipformer_time_masks_share_a_budget(frames, number, limit):
    masks = ZipformerMasks(**{**ZIPFORMER, "probability": 1.0, "freq_masks": 0})
    clips = clips_of(noise(400, frames, 1))
    hidden = changed(masks, clips, choices())[:, :, 0]
    edges = np.diff(hidden.astype(int), prepend=0, axis=1) == 1
    assert edges.sum(axis=1).max() == number
    assert hidden.sum(axis=1).max() <= number * (limit - 1)
    if number == 1:
        starts, widths = runs(hidden)
        assert_uniform(widths, 1, limit - 1)
        assert (starts + widths).max() == frames - 1


def test_zipformer_masks_reach_over_padding_and_are_filled_with_the_mean_of_all():
    clips = clips_of(noise(300, 200, 40), [150] * 300, padding=-23.0)
    masks = ZipformerMasks(**{**ZIPFORMER, "probability": 1.0})
    values = masks(clips, choices()).values
    hidden = values != clips.values
    assert hidden[:, 150:].any()
    expected = clips.values.mean(dim=(1, 2), keepdim=True).expand_as(values)
    torch.testing.assert_close(values[hidden], expected[hidden])
    # Every hidden cell belongs to a hidden row or column: 2 of up to 26 bins and 1 of up to 29 frames.
    rows, columns = hidden.all(dim=2), hidden.all(dim=1)
    assert torch.equal(hidden, rows[:, :, None] | columns[:, None, :])
    assert rows.sum(dim=1).max() == 29
    assert columns.sum(dim=1).max() > 30


def test_zipformer_chance_and_no_masks():
    clips = clips_of(noise(2000, 100, 4))
    masks = ZipformerMasks(**{**ZIPFORMER, "time_share": 1.0, "probability": 0.6, "freq_masks": 0})
    share = changed(masks, clips, choices()).any(axis=(1, 2)).mean()
    assert share == pytest.approx(0.6 * 0.99, abs=0.03)
    none = ZipformerMasks(**{**ZIPFORMER, "time_share": 0.0, "freq_masks": 0})
    assert not changed(none, clips, choices()).any()


@pytest.mark.parametrize("preset", ["ast128", "icefall80"])
def test_ast_masks_equal_zeros_before_the_normalisation(preset):
    clips = clips_of(noise(6, 16000), [16000, 12000, 9000, 16000, 8000, 16000], preset=preset)
    frontend = clips.frontend
    raw, frames = frontend.extract(clips.values, clips.tensor(clips.lengths))
    masked = AstMasks(48, 60)(to_features(clips), choices())
    hidden = masked.values != to_features(clips).values
    assert hidden.any(dim=2).any(dim=1).all()
    whole = frontend.target_frames or int(frames.max())
    padded = torch.full((6, whole, raw.shape[2]), frontend.preset.pad_value)
    for row, count in enumerate(frames.tolist()):
        padded[row, :count] = raw[row, :count]
    padded[hidden] = 0.0
    expected = padded if frontend.mean is None else (padded - frontend.mean) / (2 * frontend.std)
    torch.testing.assert_close(masked.values, expected, atol=1e-6, rtol=0)


def test_ast_masks_one_band_and_one_stretch_of_the_whole_input():
    clips = clips_of(noise(1000, 100, 64), [50] * 1000, padding=7.0, fixed_size=True)
    hidden = changed(AstMasks(24, 48), clips, choices())
    rows, columns = hidden.all(axis=2), hidden.all(axis=1)
    assert (hidden == (rows[:, :, None] | columns[:, None, :])).all()
    assert rows[:, 50:].any()
    assert_uniform(runs(rows)[1], 1, 47)
    assert_uniform(runs(columns)[1], 1, 23)
    only_time = changed(AstMasks(0, 48), clips, choices())
    assert (only_time == only_time.all(axis=2)[:, :, None]).all()
    only_freq = changed(AstMasks(24, 0), clips, choices())
    assert (only_freq == only_freq.all(axis=1)[:, None, :]).all()


def test_beats_masks():
    clips = clips_of(noise(4000, 998, 1), [998] + [900] * 3999, padding=5.0)
    values = BeatsMasks(0.06)(clips, choices()).values
    hidden = (values != clips.values).numpy()[:, :, 0]
    assert (values.numpy()[:, :, 0][hidden] == 0).all()
    starts, widths = runs(hidden)
    assert_uniform(widths, 1, 58)
    assert len(widths) == pytest.approx(4000 * 58 / 59, abs=30)  # widths of 0 leave no trace
    assert starts.min() < 3
    assert 935 < starts.max() < 998 - 58


def test_beats_masks_go_by_the_longest_clip():
    clips = clips_of(noise(50, 998, 1), [100] * 50, fixed_size=True)
    for drawn in many_choices(20):
        hidden = changed(BeatsMasks(0.06), clips, drawn)
        assert not hidden[:, 100:].any()
        assert hidden.sum(axis=1).max() <= 5
    short = clips_of(noise(50, 16, 1))
    assert not changed(BeatsMasks(0.06), short, choices()).any()
