"""Augmentation on a GPU makes the choices that it makes on the CPU, and computes the same from them."""

from __future__ import annotations

import pytest
import torch

from audiotag.augment.augmenter import build_augmenter
from audiotag.frontend import Frontend

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
KEY = (42, 3, 123456)
LENGTHS = torch.tensor([64000, 30000, 48000, 64000, 20000, 51234])
MIXUP = {"probability": 0.8, "alpha": 0.8, "partner": "batch", "length": "clip", "remove_mean": True}
ZIPFORMER = {
    "name": "zipformer",
    "probability": 0.9,
    "freq_masks": 2,
    "freq_width": 27,
    "time_share": 0.15,
    "time_masks": 10,
    "time_width": 100,
}
# Everything whose outcome does not depend on noise that is drawn on the device.
QUIET = {
    "mixup": {"on": "waveform", **MIXUP},
    "random_length": {"probability": 1.0, "duration_s": (2.0, 3.5)},
    "repeat": {"duration_s": 2.5},
    "roll": {"probability": 1.0, "interval_s": 0.5},
    "gain": {"probability": 1.0, "gain_db": (-6.0, 6.0)},
    "time_warp": {"per": "clip", "probability": 0.9, "window": 80},
    "masks": ZIPFORMER,
    "feature_roll": {"frames": 10},
}
NOISY = {"white_noise": {"probability": 1.0, "snr_db": (15.0, 15.0)}, "feature_noise": {"scale": 0.1}}


def batch(partners: bool = False) -> dict:
    generator = torch.Generator().manual_seed(0)
    inside = torch.arange(64000) < LENGTHS[:, None]
    values = (0.1 * torch.randn(6, 64000, generator=generator)).where(inside, 0.0)
    made = {"inputs": values, "lengths": LENGTHS, "labels": torch.eye(6)}
    if partners:
        made["partner"] = {name: tensor[:3] for name, tensor in made.items()} | {
            "rows": torch.tensor([1, 2, 5])
        }
    return made


def both(device, entries, made, preset):
    """What the CPU and the GPU make of a batch."""
    augmenter = build_augmenter(entries)
    return (augmenter(made, Frontend(preset).to(where), where, KEY) for where in (CPU, device))


@pytest.mark.parametrize("preset", ["ast128", "icefall80", "beats128"])
@pytest.mark.parametrize(
    "masks",
    [ZIPFORMER, {"name": "ast", "freq_width": 48, "time_width": 192}, {"name": "beats", "time_share": 0.06}],
)
@pytest.mark.parametrize("partner", ["batch", "corpus"])
def test_the_gpu_does_what_the_cpu_does(device, preset, masks, partner):
    entries = {**QUIET, "masks": masks, "mixup": {"on": "waveform", **MIXUP, "partner": partner}}
    expected, actual = both(device, entries, batch(partners=partner == "corpus"), preset)
    assert all(tensor.is_cuda for tensor in actual)
    assert torch.equal(actual[1].cpu(), expected[1])
    torch.testing.assert_close(actual[2].cpu(), expected[2], atol=1e-6, rtol=0)
    error = (actual[0].cpu() - expected[0]).abs().flatten()
    # As far as the front end itself differs, see test_gpu_parity.
    assert error.max() <= 2e-2
    assert error.kthvalue(int(0.99 * len(error))).values <= 5e-4


@pytest.mark.parametrize("on", ["waveform", "features"])
def test_the_same_key_gives_the_same_bits(device, on):
    entries = {**QUIET, **NOISY, "mixup": {"on": on, **MIXUP}}
    augmenter, frontend = build_augmenter(entries), Frontend("ast128").to(device)
    first = augmenter(batch(), frontend, device, KEY)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        second = augmenter(batch(), frontend, device, KEY)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], augmenter(batch(), frontend, device, (42, 4, 123456))[0])


def test_noise_on_the_device_has_its_ratio(device):
    made = batch()
    augmenter = build_augmenter({"white_noise": NOISY["white_noise"]})
    clips = augmenter.change_inputs(made, Frontend("ast128").to(device), device, KEY)
    added = clips.values.cpu() - made["inputs"]
    ratios = made["inputs"].square().sum(dim=1) / added.square().sum(dim=1)
    torch.testing.assert_close(10 * ratios.log10(), torch.full((6,), 15.0), atol=1e-2, rtol=0)
    assert (added[1, LENGTHS[1] :] == 0).all()
