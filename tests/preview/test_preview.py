"""The page of augmented clips: what it shows is what training would get."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pytest
import soundfile
import torch

from audiotag.augment.augmenter import build_augmenter
from audiotag.configfile import load_config
from audiotag.data.splits import open_split, read_labels
from audiotag.distributed import World
from audiotag.preview.examples import make_examples
from audiotag.preview.page import Example, Take, write_page
from audiotag.tagger import build_frontend
from audiotag.training.loaders import training_set

GAIN = "augment.gain={probability: 1.0, gain_db: [6.0206, 6.0206]}"
MIXUP = "augment.mixup={'on': waveform, probability: 1.0, partner: corpus}"


def configured(recipe, *overrides):
    return load_config(recipe.folder / "config.yaml", list(overrides))


def examples_of(recipe, *overrides, ids=(), clips=3, takes=2):
    config = configured(recipe, *overrides)
    return make_examples(
        config, recipe.folder / "data", ids=list(ids), num_clips=clips, num_takes=takes
    ), config


def test_a_take_is_what_training_gets(recipe):
    examples, config = examples_of(recipe, MIXUP, "augment.masks={name: ast}")
    data_dir = recipe.folder / "data"
    manifest = open_split(data_dir, "train", preset="ast128", storage="on_the_fly")
    world = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    _, dataset = training_set(config, manifest, data_dir, read_labels(data_dir), world)
    ids = [manifest.id(position) for position in range(len(manifest))]
    batch = dataset.make_batch((2, np.array([ids.index(example.id) for example in examples])))
    key = (config.seed, 2, batch["batch_name"])
    augmenter, frontend = (
        build_augmenter(config.augment.model_dump()),
        build_frontend(config.features.model_dump()),
    )
    features, lengths, targets = augmenter(batch, frontend, torch.device("cpu"), key)
    for row, example in enumerate(examples):
        take = example.takes[2]
        assert np.array_equal(take.features, features[row, : lengths[row]].numpy())
        assert sorted(weight for _, weight in take.labels) == sorted(targets[row][targets[row] > 0].tolist())
        assert not np.array_equal(take.features, example.takes[1].features)


def test_the_sound_is_the_augmented_one(recipe):
    examples, _ = examples_of(recipe, GAIN, takes=1)
    for example in examples:
        before, after = (take.samples for take in example.takes)
        assert np.allclose(after, 2 * before, atol=1e-5)


def test_clips_are_chosen_by_id_or_by_seed(recipe):
    some, _ = examples_of(recipe, clips=2, takes=1)
    again, _ = examples_of(recipe, clips=2, takes=1)
    assert [example.id for example in some] == [example.id for example in again]
    [one], _ = examples_of(recipe, ids=[some[1].id], takes=1)
    assert one.id == some[1].id
    assert np.array_equal(one.takes[0].features, some[1].takes[0].features)
    other, _ = examples_of(recipe, "seed=7", clips=2, takes=1)
    assert [example.id for example in other] != [example.id for example in some]


def test_the_command_writes_a_page_of_its_own(recipe):
    done = recipe.run(
        "preview",
        "--config",
        "config.yaml",
        "--set",
        GAIN,
        "--clips",
        "2",
        "--takes",
        "1",
        "--output",
        "pages/preview.html",
    )
    assert done.returncode == 0, done.stderr
    text = (recipe.folder / "pages" / "preview.html").read_text(encoding="utf-8")
    assert "gain_db" in text and "mixup" not in text
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    sounds = re.findall(r'src="data:audio/wav;base64,([^"]+)"', text)
    assert len(pictures) == len(sounds) == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    rates = [soundfile.info(io.BytesIO(base64.b64decode(sound))).samplerate for sound in sounds]
    assert rates == [16000] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clip", "nowhere"], "train has no clip 'nowhere'"),
        (["--data-dir", "elsewhere"], "stage 1 makes it"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(recipe, arguments, message):
    done = recipe.run("preview", "--config", "config.yaml", *arguments)
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and "Traceback" not in done.stderr


def test_names_are_text_and_no_markup():
    take = Take("as it is", np.zeros((4, 3)), [("<b>dog & cat</b>", 0.25)])
    page = write_page("<i>", "a: <b>", [Example("x</h2><script>", [take])])
    assert "<script>" not in page and "<b>dog" not in page and "a: <b>" not in page
    assert html.escape("<b>dog & cat</b>") + " (0.25)" in page
