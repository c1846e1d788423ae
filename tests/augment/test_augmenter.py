"""The augmenter as a whole: built from the configuration, a function of its key, right in every mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import batch_of, noise

from audiotag.augment.augmenter import Augmenter, build_augmenter
from audiotag.augment.masks import AstMasks
from audiotag.augment.mixup import Mixup
from audiotag.configaugment import Augment
from audiotag.configfile import load_config
from audiotag.frontend import PRESETS, Frontend

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
KEY = (42, 3, 123456)
LENGTHS = [16000, 9000, 12000, 16000, 5000, 14000]
ALL = {
    "mixup": {"on": "waveform", "probability": 0.7},
    "random_length": {"probability": 1.0, "duration_s": [0.6, 0.9]},
    "repeat": {"duration_s": 0.7},
    "roll": {"interval_s": 0.1},
    "gain": {"probability": 1.0},
    "white_noise": {"probability": 1.0},
    "time_warp": {"window": 8, "probability": 1.0},
    "masks": {"name": "zipformer", "probability": 1.0},
    "feature_noise": {},
    "feature_roll": {},
}
WAVEFORMS_ONLY = ("roll", "gain", "white_noise")


def augmenter(**entries):
    """An augmenter as training builds it."""
    return build_augmenter(Augment.model_validate(entries).model_dump(mode="json"))


def waveforms(partner=True):
    """A batch of waveforms, with partners from the corpus for three clips."""
    more = {}
    if partner:
        drawn = batch_of(0.1 * noise(3, 16000, seed=1), [16000, 700, 11000], torch.eye(6)[3:])
        more["partner"] = {**drawn, "rows": torch.tensor([0, 2, 5])}
    return batch_of(0.1 * noise(6, 16000), LENGTHS, torch.eye(6), **more)


def stored(preset):
    """The same batch as stored log-mel, zeros past the ends."""
    batch = waveforms()
    for part in (batch, batch["partner"]):
        raw, frames = Frontend(preset).extract(part["inputs"], part["lengths"])
        inside = torch.arange(raw.shape[1]) < frames[:, None]
        part["inputs"], part["lengths"] = raw.where(inside[:, :, None], 0.0), frames
    return batch


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_nothing_to_do_on_the_device_builds_nothing():
    assert augmenter() is None
    assert augmenter(crop={}, noise={}) is None


def test_every_entry_of_the_configuration_acts_in_its_place():
    for on, form, on_features in (
        ("waveform", "ast", ["masks_ast", "time_warp"]),
        ("features", "ast", ["masks_ast", "mixup_features", "time_warp"]),
        ("features", "zipformer", ["mixup_features", "time_warp", "masks_zipformer"]),
        ("waveform", "beats", ["time_warp", "masks_beats"]),
    ):
        entries = {name: ALL.get(name, {}) for name in reversed(Augment.model_fields)}
        built = augmenter(**{**entries, "mixup": {"on": on}, "masks": {"name": form}})
        on_inputs = ["random_length", "repeat", "roll", "gain", "white_noise"]
        assert list(built.on_inputs) == (["mixup_waveform"] if on == "waveform" else []) + on_inputs
        assert list(built.on_features) == [*on_features, "feature_noise", "feature_roll"]


def test_the_key_decides_everything():
    batch, front_end, built = waveforms(), Frontend("ast128", target_frames=100), augmenter(**ALL)
    first = built(batch, front_end, CPU, KEY)
    torch.manual_seed(5)
    np.random.seed(5)
    assert_same(first, built(batch, front_end, CPU, KEY))
    assert_same(first, augmenter(**ALL)(batch, front_end, CPU, KEY))
    for place in range(3):
        key = tuple(number + (place == index) for index, number in enumerate(KEY))
        features, _, targets = built(batch, front_end, CPU, key)
        assert not torch.equal(features, first[0])
        assert not torch.equal(targets, first[2])


@pytest.mark.parametrize("name", ["mixup", "gain", "masks", "time_warp", "roll"])
def test_an_entry_makes_the_same_choices_beside_any_others(name):
    batch, key, front_end = waveforms(), KEY, Frontend("ast128", target_frames=100)
    entry = {name: ALL[name]}
    alone = augmenter(**entry)
    beside = augmenter(**{**entry, "white_noise": {"probability": 0.0}, "feature_noise": {"scale": 1e-30}})
    assert_same(alone(batch, front_end, CPU, key), beside(batch, front_end, CPU, key))
    assert not torch.equal(
        alone(batch, front_end, CPU, key)[0], front_end(batch["inputs"], batch["lengths"])[0]
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_without_any_entry_the_inputs_are_those_of_an_evaluation(preset):
    batch, front_end = waveforms(partner=False), Frontend(preset)
    expected = (*front_end(batch["inputs"], batch["lengths"]), batch["labels"])
    assert_same(Augmenter({}, {})(batch, front_end, CPU, KEY), expected)
    batch = stored(preset)
    expected = (*front_end.finish(batch["inputs"], batch["lengths"]), batch["labels"])
    del batch["partner"]
    assert_same(Augmenter({}, {})(batch, front_end, CPU, KEY), expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_chances_of_0_give_the_front_ends_features(preset):
    off = {name: {**entry, "probability": 0.0} for name, entry in ALL.items() if name not in ("repeat",)}
    off = {
        **off,
        "feature_noise": None,
        "feature_roll": None,
        "mixup": {"probability": 0, "partner": "batch"},
    }
    batch = waveforms(partner=False)
    features, lengths, targets = augmenter(**off)(batch, Frontend(preset), CPU, KEY)
    expected, frames = Frontend(preset)(batch["inputs"], batch["lengths"])
    assert_same((features, lengths, targets), (expected, frames, batch["labels"]))


@pytest.mark.parametrize(
    "partner, target_frames, form",
    [
        ("corpus", None, "zipformer"),
        ("batch", None, "beats"),
        ("corpus", 64, "ast"),
        ("batch", 64, "zipformer"),
    ],
)
@pytest.mark.parametrize("storage", ["stored", "waveform", "features"])
@pytest.mark.parametrize("preset", PRESETS)
def test_all_together(preset, storage, partner, target_frames, form):
    entries = {**ALL, "masks": {"name": form}, "time_warp": {"window": 4, "per": "batch"}}
    entries["mixup"] = {"partner": partner, "length": "shorter", "probability": 1.0}
    entries["mixup"]["on"] = "waveform" if storage == "waveform" else "features"
    if storage == "stored":
        entries = {name: entry for name, entry in entries.items() if name not in WAVEFORMS_ONLY}
    batch = stored(preset) if storage == "stored" else waveforms()
    before = {name: batch[name].clone() for name in ("inputs", "lengths", "labels")}
    front_end = Frontend(preset, target_frames=target_frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, lengths, targets = augmenter(**entries)(batch, front_end, CPU, KEY)
    assert_same(augmenter(**entries)(batch, front_end, CPU, KEY), (features, lengths, targets))
    assert features.dtype == targets.dtype == torch.float32
    assert lengths.dtype == torch.int64
    assert features.isfinite().all()
    assert features.shape[0] == 6
    assert features.shape[2] == front_end.num_mel_bins
    assert features.shape[1] == (front_end.target_frames or int(lengths.max()))
    assert lengths.min() >= 1
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    assert (targets < 1).any()
    for name, tensor in before.items():
        assert torch.equal(batch[name], tensor), f"{name} was changed in place"


def test_padding_stays_padding_until_the_encoder():
    entries = {**ALL, "masks": {"name": "ast", "time_width": 0, "freq_width": 0}, "random_length": None}
    features, lengths, _ = augmenter(**entries)(waveforms(), Frontend("icefall80"), CPU, KEY)
    assert len(set(lengths.tolist())) > 2
    for row, length in enumerate(lengths.tolist()):
        assert (features[row, length:] == torch.tensor(np.log(1e-10), dtype=torch.float32)).all()
        assert (features[row, :length] > -20).all()


def test_waveforms_can_be_looked_at_before_they_become_features():
    entries = {name: ALL[name] for name in ("mixup", "random_length", "repeat", "gain")}
    built, front_end = augmenter(**entries), Frontend("ast128", target_frames=100)
    clips = built.change_inputs(waveforms(), front_end, CPU, KEY)
    assert clips.are_waveforms
    expected, frames = front_end(clips.values, torch.from_numpy(clips.lengths))
    assert_same(built(waveforms(), front_end, CPU, KEY), (expected, frames, clips.targets))


@pytest.mark.parametrize("name", ["ast_balanced", "ast_full"])
def test_the_recipes_augment_as_the_paper(name):
    config = load_config(ROOT / "egs" / "audioset" / "conf" / f"{name}.yaml")
    built = build_augmenter(config.model_dump(mode="json")["augment"])
    assert built.on_inputs == {"mixup_waveform": Mixup(0.5, 10.0, "corpus", "clip", True)}
    assert built.on_features == {"masks_ast": AstMasks(48, 192)}
