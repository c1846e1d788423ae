"""Opening teachers: of which kinds, with which classes, and knowing them again."""

from __future__ import annotations

import pytest
import torch

from audiotag.config import Config
from audiotag.distillation.teachers import Teachers, model_digest, open_teacher, open_teachers
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import load_model
from audiotag.interop.ast import export_ast
from audiotag.interop.espnet import export_espnet
from audiotag.interop.hfexport import export_huggingface
from audiotag.labels import Label, LabelTable
from audiotag.training.checkpoint import save_checkpoint
from tests.distillation.scenes import write_teacher
from tests.export.models import small_model
from tests.tiny import TINY, tiny_checkpoint, tiny_labels


def config_of(*places: str, **settings) -> Config:
    return Config.model_validate({**TINY, "distillation": {"teachers": places, **settings}})


def opened(config: Config, labels: LabelTable) -> Teachers:
    return open_teachers(config, labels, World(0, 0, 1, torch.device("cpu")))


def heard(clips: int = 4):
    features = torch.randn(clips, 64, 128, generator=torch.Generator().manual_seed(0))
    return features, torch.full((clips,), 64)


def test_classes_are_found_by_their_mids(tmp_path):
    labels = tiny_labels()
    more = LabelTable([Label(i, mid, mid) for i, mid in enumerate(["/m/002", "/m/x", "/m/000", "/m/001"])])
    tagger = write_teacher(tmp_path / "teacher", more)
    teachers = opened(config_of(str(tmp_path / "teacher")), labels)
    with torch.no_grad():
        own = tagger(*heard())
    logits, embeddings = teachers([heard()], "off")
    assert torch.equal(logits, own[:, [2, 3, 0]])
    assert embeddings.shape == (4, 24) and teachers.width == 24
    assert not any(p.requires_grad for p in teachers.members[0].model.tagger.parameters())
    fewer = LabelTable(list(labels)[:2])
    write_teacher(tmp_path / "fewer", fewer)
    with pytest.raises(CheckpointError, match=r"fewer does not know 1 of the 3 classes, among them /m/002"):
        opened(config_of(str(tmp_path / "fewer")), labels)


def test_several_teachers_speak_as_their_weighted_mean(tmp_path):
    labels = tiny_labels()
    taggers = [write_teacher(tmp_path / name, labels, seed=seed) for seed, name in enumerate("ab")]
    places = [str(tmp_path / name) for name in "ab"]
    teachers = opened(config_of(*places, weights=[3.0, 1.0]), labels)
    with torch.no_grad():
        one, other = (tagger(*heard()).sigmoid() for tagger in taggers)
    logits, _ = teachers([heard()] * 2, "off")
    torch.testing.assert_close(logits.sigmoid(), 0.75 * one + 0.25 * other)
    assert [one["share"] for one in teachers.describe()] == [0.75, 0.25]


def test_only_teachers_that_all_exclude_other_classes_exclude_them_together(tmp_path):
    labels = tiny_labels()
    tagger = write_teacher(tmp_path / "ce", labels, loss="ce")
    write_teacher(tmp_path / "bce", labels)
    both = opened(config_of(str(tmp_path / "ce"), str(tmp_path / "bce")), labels)
    alone = Teachers(both.members[:1])
    assert alone.exclusive and not both.exclusive
    with torch.no_grad():
        expected = tagger(*heard()).softmax(dim=1)
    torch.testing.assert_close(alone([heard()], "off")[0].sigmoid(), expected)


def test_a_checkpoint_a_folder_and_a_variable_name_teachers(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "epoch-1.pt", tiny_checkpoint())
    monkeypatch.setenv("MY_TEACHER", str(tmp_path / "epoch-1.pt"))
    teachers = opened(config_of("$MY_TEACHER"), tiny_labels())
    assert teachers.members[0].place == tmp_path / "epoch-1.pt"
    (tmp_path / "run").mkdir()
    for epoch in (1, 2):
        save_checkpoint(tmp_path / f"run/epoch-{epoch}.pt", tiny_checkpoint(seed=epoch, epoch=epoch))
    (tmp_path / "run/config.yaml").write_text("evaluation: {avg: 2}\n")
    mean = open_teacher(tmp_path / "run", tiny_labels()).tagger.head.weight
    parts = [tiny_checkpoint(seed=epoch)["model"]["head.weight"] for epoch in (1, 2)]
    torch.testing.assert_close(mean, (parts[0] + parts[1]) / 2)
    monkeypatch.delenv("MY_TEACHER")
    with pytest.raises(ConfigError, match="MY_TEACHER is not set"):
        opened(config_of("$MY_TEACHER"), tiny_labels())


def test_models_of_other_toolkits_are_teachers(tmp_path):
    labels = tiny_labels()
    turned = LabelTable([Label(i, labels[2 - i].mid, labels[2 - i].name) for i in range(3)])
    write_teacher(tmp_path / "own", turned, width=64)
    model = load_model(tmp_path / "own")
    export_huggingface(tmp_path / "hf", model, {})
    export_ast(tmp_path / "original", model)
    with torch.no_grad():
        expected = model.tagger(*heard())
    (hf,) = opened(config_of(str(tmp_path / "hf")), labels).members
    torch.testing.assert_close(hf(*heard(), "off")[0], expected[:, [2, 1, 0]], atol=0.02, rtol=0)
    with pytest.raises(ConfigError, match=r"ast_16_16.pth does not name its classes: make a folder of it"):
        opened(config_of(str(tmp_path / "original" / "ast_16_16.pth")), labels)


def test_a_folder_of_espnet_is_no_run_though_it_has_a_config(tmp_path):
    model = small_model("beats")
    export_espnet(tmp_path / "espnet", model)
    assert (tmp_path / "espnet/config.yaml").is_file()
    teacher = open_teacher(tmp_path / "espnet", model.tagger.labels)
    assert torch.equal(teacher.tagger.head.weight, model.tagger.head.weight)


def test_what_is_no_teacher_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"distillation.teachers: .*nowhere is not there; name a"):
        opened(config_of(str(tmp_path / "nowhere")), tiny_labels())
    with pytest.raises(CheckpointError, match="is not the folder of a model"):
        opened(config_of(str(tmp_path)), tiny_labels())


def test_a_digest_tells_models_apart(tmp_path):
    labels = tiny_labels()
    for name, settings in {
        "one": {},
        "weights": {"seed": 2},
        "loss": {"loss": "ce"},
        "features": {"features": {"mean": 0.0, "std": 1.0}},
    }.items():
        write_teacher(tmp_path / name, labels, **settings)
    digests = [model_digest(load_model(path)) for path in tmp_path.iterdir()]
    assert len(set(digests)) == 4
    assert model_digest(load_model(tmp_path / "one")) in digests
