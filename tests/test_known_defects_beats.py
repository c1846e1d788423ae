"""What is wrong in the code that BEATs was published with, and in ESPnet's recipe of it, is not wrong here.

The numbers are those of the list in docs/beats.md. Where other tests show it at length, `ELSEWHERE` names
them; the others are small tests of their own below.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from audiotag.configencoder import BeatsEncoder
from audiotag.configfile import load_config
from tests.encoders.beats.reference import reference_tagger, tiny_beats, vectors

ROOT = Path(__file__).resolve().parents[1]

ELSEWHERE = {
    1: [
        "encoders/beats/test_beats_training.py::test_gradients_decay_layer_by_layer",
        "encoders/beats/test_beats_training.py::test_the_last_layer_only",
    ],
    2: [
        "encoders/beats/test_beats_model.py::test_a_clip_is_heard_as_alone_whatever_is_behind_it",
        "encoders/beats/test_beats_model.py::test_which_tokens_are_a_clips_by_the_original",
    ],
    3: ["encoders/beats/test_beats_model.py::test_a_tagger_pads_clips_that_are_too_short"],
    7: [
        "interop/test_beats.py::test_names_come_from_a_list_in_any_order",
        "interop/test_espnet.py::test_mids_come_from_a_list_in_any_order",
    ],
    8: ["interop/test_beats.py::test_what_cannot_be_seen_is_not_guessed"],
    9: ["interop/test_beats.py::test_what_does_not_fit_is_refused"],
    10: ["test_known_defects.py::test_16_the_validation_set_is_not_the_evaluation_set"],
    11: ["evaluation/test_scoring_processes.py::test_the_first_process_gets_every_clip_once_in_order"],
}


@pytest.mark.parametrize(
    ("number", "place"), [(number, place) for number, places in ELSEWHERE.items() for place in places]
)
def test_the_tests_elsewhere_are_there(number, place):
    file, name = place.split("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"defect {number}"


def test_the_list_of_the_documentation_has_all_numbers():
    text = (ROOT / "docs/beats.md").read_text()
    own = {
        int(number) for number in re.findall(r"^def test_(\d+)_", Path(__file__).read_text(), re.MULTILINE)
    }
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert listed == sorted(own | set(ELSEWHERE)) == list(range(1, len(listed) + 1))


def test_4_features_are_left_as_they_are():
    x = vectors("fbank")["fbank"].clone()
    before = x.clone()
    reference_tagger()(x, torch.tensor([118, 68]))
    assert torch.equal(x, before)


def test_5_evaluation_draws_no_random_numbers():
    encoder = tiny_beats(layer_drop=0.5, dropout=0.1).eval()
    state = torch.get_rng_state()
    encoder(torch.randn(1, 32, 128, generator=torch.Generator()), torch.tensor([32]))
    assert torch.equal(torch.get_rng_state(), state)


def test_6_a_tagger_gives_logits():
    x = vectors("fbank")["fbank"]
    with torch.no_grad():
        logits = reference_tagger().eval()(x, torch.tensor([118, 68]))
    assert float(logits.min()) < 0.0
    recorded = vectors("tiny_model")["masked.act.probs"]
    torch.testing.assert_close(logits.sigmoid(), recorded, atol=1e-5, rtol=0)


def test_8_defaults_are_those_of_the_published_models():
    published = load_config(ROOT / "conf/encoders/beats_base.yaml").encoder
    assert published == BeatsEncoder()
    assert (published.deep_norm, published.gated_bias, published.max_distance) == (True, True, 800)
