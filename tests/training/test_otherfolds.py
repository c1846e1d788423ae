"""Models of another fold, which have learnt what this one is evaluated on: refused wherever one is named."""

from __future__ import annotations

import pytest
import torch

from audiotag.checks.models import check_models
from audiotag.configensemble import Ensemble
from audiotag.configfile import load_config
from audiotag.data.splits import read_labels
from audiotag.distillation.teachers import open_teachers
from audiotag.distributed import World
from audiotag.errors import ConfigError, DataError
from audiotag.prediction.members import find_members
from audiotag.prediction.memberscores import ModelScorer
from audiotag.training.averaging import choose_weights
from audiotag.training.checkpoint import load_checkpoint, save_checkpoint
from audiotag.training.otherfolds import (
    Fold,
    all_folds,
    fold_here,
    folds_behind,
    folds_of_sources,
    refuse_other_folds,
)
from audiotag.training.starting import find_start, read_start
from tests.conftest import Recipe
from tests.corpora.publishedcorpora import make_esc50
from tests.tiny import tiny_checkpoint

WORLD = World(0, 0, 1, torch.device("cpu"))
HERE = Fold("esc50", 1)
CONFIG = """
corpus: {name: esc50, dir: corpus, valid: eval}
features: {preset: ast128, target_frames: 64, storage: on_the_fly}
encoder: {name: ast, embed_dim: 16, depth: 2, num_heads: 2, freq_stride: 16, time_stride: 16}
data: {batch_size: 8, num_workers: 0}
training: {epochs: 1}
"""


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """The data of two folds of ESC-50, a run of each and the second one's exported model."""
    recipe = Recipe(tmp_path_factory.mktemp("folds"))
    make_esc50(recipe.folder / "corpus", categories=2, sources=1, takes=1)
    (recipe.folder / "config.yaml").write_text(CONFIG)
    for fold in (1, 2):
        config = ("--config", "config.yaml", "--set", f"corpus.fold={fold}")
        data = ("--data-dir", f"data/fold{fold}")
        for done in (
            recipe.run("prepare", *config, *data),
            recipe.run("train", *config, *data, "--exp-dir", f"exp/base/fold{fold}"),
        ):
            assert done.returncode == 0, done.stderr
    done = recipe.run("export", "--exp-dir", "exp/base/fold2", "--dest", "exp/packed")
    assert done.returncode == 0, done.stderr
    return recipe


@pytest.fixture
def inside(folds, monkeypatch):
    monkeypatch.chdir(folds.folder)
    return folds.folder


def config_with(*overrides):
    return load_config("config.yaml", ["corpus.fold=1", *overrides])


OTHERS = ["exp/base/fold2", "exp/base/fold2/epoch-1.pt", "exp/packed"]


@pytest.mark.parametrize("place", OTHERS)
def test_a_model_of_another_fold_is_refused(inside, place):
    data = inside / "data/fold1"
    words = rf"{place}.* for fold 2, .* fold 1 \(corpus.fold\).*name the model of fold 1"
    start, taught = config_with(f"init.model={place}"), config_with(f"distillation.teachers=[{place}]")
    with pytest.raises(ConfigError, match=f"init.model: {words}"):
        read_start(start, WORLD, fold_here(start, data))
    with pytest.raises(ConfigError, match=f"distillation.teachers: {words}"):
        open_teachers(taught, read_labels(data), WORLD, fold_here(taught, data))
    for config in (start, taught):
        for data_dir in (data, inside / "data/unprepared"):
            [finding] = check_models(config, data_dir, inside / "exp/new")
            assert (finding.level, finding.exit_code) == ("fail", 2) and "for fold 2" in finding.text
        [finding] = check_models(config, inside / "data/fold2", inside / "exp/new")
        assert finding.level == "ok"


def test_data_that_does_not_tell_its_fold_is_a_finding_only_where_a_model_is_named(inside, tmp_path):
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/coverage.json").write_text("{")
    assert check_models(config_with(), tmp_path, inside / "exp/new") == []
    [finding] = check_models(config_with("init.model=exp/base/fold1"), tmp_path, inside / "exp/new")
    assert finding.level == "fail" and "coverage.json" in finding.text


@pytest.mark.slow
def test_the_commands_refuse_it_before_they_write_anything(folds):
    config = ("--config", "config.yaml", "--set", "corpus.fold=1", "--data-dir", "data/fold1")
    for module, setting in (
        ("train", "init.model=exp/base/fold2"),
        ("train", "distillation.teachers=[exp/packed]"),
        ("check", "init.model=exp/base/fold2"),
        ("teacher_scores", "distillation.teachers=[exp/base/fold2]"),
    ):
        where = () if module == "teacher_scores" else ("--exp-dir", "exp/leaking")
        done = folds.run(module, *config, *where, "--set", setting)
        assert done.returncode == ConfigError.exit_code, (module, done.stdout, done.stderr)
        assert "for fold 2" in " ".join((done.stdout + done.stderr).split())
    assert not list(folds.exp("leaking").glob("[!.]*"))  # the lock alone
    assert not (folds.folder / "data/fold1/teacher").exists()
    looked = folds.run("config", *config[:4], "--check-start", "--set", "init.model=exp/packed")
    assert looked.returncode == ConfigError.exit_code and "for fold 2" in looked.stderr


@pytest.mark.slow
def test_of_a_cross_validation_each_fold_takes_its_own_run(folds):
    for fold in (1, 2):
        settings = (f"corpus.fold={fold}", "init.model=exp/base", "distillation.teachers=[exp/base]")
        overrides = [word for setting in settings for word in ("--set", setting)]
        where = ("--data-dir", f"data/fold{fold}", "--exp-dir", f"exp/tuned/fold{fold}")
        done = folds.run("train", "--config", "config.yaml", *overrides, *where)
        assert done.returncode == 0, done.stderr
        state = load_checkpoint(folds.exp(f"tuned/fold{fold}") / "epoch-1.pt")
        assert state["init"]["path"] == str(folds.exp("base") / f"fold{fold}")
        assert state["folds"] == state["init"]["folds"] == [["esc50", fold]]
    table = folds.run("crossvalidate", "--exp-dir", "exp/tuned", "--folds", "2")
    assert table.returncode == 0, table.stderr


def test_a_fold_that_is_not_there_is_named(inside):
    config = config_with("corpus.fold=3", "init.model=exp/base")
    with pytest.raises(Exception, match=r"init.model: there is no file or folder exp/base/fold3"):
        find_start(config.init, fold_here(config))


def test_scores_of_another_fold_are_refused(folds, inside):
    data = ("--data-dir", "data/fold1")
    done = folds.run("evaluate", "--config", "config.yaml", *data, "--exp-dir", "exp/base/fold2")
    assert done.returncode == DataError.exit_code
    assert "data/fold1 holds fold 1, the model was trained for fold 2" in done.stderr
    for place in ("exp/base/fold2", "exp/packed"):
        ensemble = Ensemble(members=[place], splits=["eval"], evaluation={"bootstrap": 0})
        [member] = find_members(ensemble)
        with pytest.raises(DataError, match="holds fold 1, the model was trained for fold 2"):
            ModelScorer(ensemble, inside / "data/fold1", inside / "scores", WORLD).score(member, ["eval"])


def test_folds_come_along_with_weights(folds, inside, tmp_path):
    """By averages, by imports, and by a model of a corpus without folds that was started from one with."""
    state = {**tiny_checkpoint(), "folds": [["esc50", 2]], "init": {}}
    save_checkpoint(tmp_path / "epoch-1.pt", state)
    save_checkpoint(tmp_path / "epoch-2.pt", {**tiny_checkpoint(epoch=2), "folds": []})
    (tmp_path / "config.yaml").write_text("evaluation: {avg: 2}\n")
    chosen = choose_weights(tmp_path, load_config(tmp_path / "config.yaml").evaluation)
    assert chosen.folds == [Fold("esc50", 2)]
    done = folds.run("import_checkpoint", "--from", "audiotag", "exp/packed", str(tmp_path / "imported"))
    assert done.returncode == 0, done.stderr
    for place in ("epoch-1.pt", "imported"):
        with pytest.raises(ConfigError, match="for fold 2"):
            refuse_other_folds(HERE, [tmp_path / place], "init.model")
    refuse_other_folds(HERE, [tmp_path / "epoch-2.pt"], "init.model")
    config = config_with(f"init.model={tmp_path}")
    with pytest.raises(ConfigError, match=r"epoch-1.pt comes of a training for fold 2"):
        find_start(config.init, HERE)


def test_a_run_has_the_folds_of_its_own_of_its_start_and_of_its_teachers():
    start, taught = {"folds": [["esc50", 2]]}, [HERE, Fold("a", 3)]
    assert all_folds(None, [start, None], taught) == [["a", 3], ["esc50", 1], ["esc50", 2]]
    gone_on = [{"model": "of an older version"}, {"folds": [["esc50", 4]]}]
    assert all_folds(HERE, gone_on) == [["esc50", 1], ["esc50", 4]]
    assert all_folds(None, [None, {}]) == []


def test_clips_of_other_folds_count_like_their_models(inside, tmp_path):
    sources = f"data.sources=[{{}}, {{data_dir: {inside / 'data/fold2'}}}, {{data_dir: {tmp_path}}}]"
    assert folds_of_sources(load_config("config.yaml", [sources])) == [Fold("", 2)]


def test_what_older_files_and_models_without_folds_say(inside, tmp_path):
    state = load_checkpoint("exp/base/fold2/epoch-1.pt")
    del state["folds"]
    save_checkpoint(tmp_path / "old.pt", state)
    assert folds_behind(tmp_path / "old.pt") == [Fold("esc50", 2)]
    # Data that another configuration prepared count, not what this one says.
    state["config"]["corpus"]["fold"] = 4
    save_checkpoint(tmp_path / "data.pt", state)
    assert folds_behind(tmp_path / "data.pt") == [Fold("esc50", 2)]
    save_checkpoint(tmp_path / "audioset.pt", tiny_checkpoint())
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 no checkpoint")
    for name in ("audioset.pt", "damaged.pt", "absent"):
        assert folds_behind(tmp_path / name) == []
    assert fold_here(load_config(None)) is None


@pytest.mark.parametrize(
    ("fold", "other", "shared"),
    [
        (Fold("esc50", 2), HERE, True),
        (HERE, HERE, False),
        (Fold("", 2), HERE, True),
        (Fold("another", 2), HERE, False),
        (HERE, None, False),
    ],
)
def test_which_folds_share_clips(fold, other, shared):
    assert fold.shares_clips(other) == shared
