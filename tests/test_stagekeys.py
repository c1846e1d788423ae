"""What makes a stage run again: the lists and folders of corpora, and the recipes that join in."""

from __future__ import annotations

import os

import pytest

from audiotag.configfile import load_config
from audiotag.stagekeys import stage_keys, start_path
from tests.corpora.publishedcorpora import make_esc50, make_speechcommands


def keys(*overrides: str, corpus: str = "mydata") -> dict[str, str]:
    return stage_keys(load_config(None, [f"corpus.name={corpus}", *overrides]))


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [stage for stage in before if before[stage] != after[stage]]


@pytest.fixture
def corpus(tmp_path):
    """Two class folders and two lists."""
    for name in ("cat/1.wav", "dog/2.flac"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"sound")
    (tmp_path / "list.csv").write_text("path,labels\ncat/1.wav,cat\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_edited_list_redoes_stage_1_and_what_follows(corpus, as_folder):
    path = corpus / "list.csv"
    given = (f"corpus.dir={corpus}", "corpus.list=list.csv") if as_folder else (f"corpus.dir={path}",)
    given = (*given, "corpus.labels=classes.txt")
    before = keys(*given)
    assert keys(*given) == before
    (corpus / "cat" / "1.wav").write_bytes(b"other sound")
    assert keys(*given) == before
    path.write_text("path,labels\ncat/1.wav,dog\n")
    edited = keys(*given)
    assert changed(before, edited) == ["1", "2", "4", "5", "6", "7", "8"]
    (corpus / "classes.txt").write_text("dog\ncat\n")
    assert "1" in changed(edited, keys(*given))


def test_names_and_sizes_of_the_files_in_class_folders_count(corpus):
    given = f"corpus.dir={corpus}"
    before = keys(given)
    (corpus / "list.csv").write_text("another")
    (corpus / "cat" / ".hidden.wav").write_bytes(b"")
    os.utime(corpus / "cat" / "1.wav", (0, 0))
    assert keys(given) == before
    (corpus / "cat" / "1.wav").write_bytes(b"other sound")
    longer = keys(given)
    assert "1" in changed(before, longer)
    (corpus / "cat" / "1.wav").rename(corpus / "dog" / "1.wav")
    assert "1" in changed(longer, keys(given))


@pytest.mark.parametrize("given", [[], ["corpus.dir=/nowhere"], ["corpus.dir=/nowhere/list.csv"]])
@pytest.mark.parametrize("more", [[], ["corpus.labels=absent.txt"], ["corpus.list=absent.csv"]])
@pytest.mark.parametrize("corpus_name", ["mydata", "audioset", "esc50", "speechcommands"])
def test_a_corpus_that_is_not_there_has_keys(given, more, corpus_name):
    if corpus_name != "mydata":
        known = ("labels",) if corpus_name == "audioset" else ()
        more = [item for item in more if item.removeprefix("corpus.").split("=")[0] in known]
    assert set(keys(*given, *more, corpus=corpus_name)) == set("12345678")


def test_folds_and_the_lists_of_published_corpora_count(tmp_path):
    make_esc50(tmp_path / "esc", categories=1, sources=1, takes=1)
    where = f"corpus.dir={tmp_path / 'esc'}"
    before = keys(where, corpus="esc50")
    assert "1" in changed(before, keys(where, "corpus.fold=2", corpus="esc50"))
    assert keys(where, "corpus.fold=1", corpus="esc50") == before
    with (tmp_path / "esc/meta/esc50.csv").open("a") as file:
        file.write("x.wav,1,0,z_sound,True,9,A\n")
    assert "1" in changed(before, keys(where, corpus="esc50"))

    make_speechcommands(tmp_path / "words", words=("no",), speakers=3)
    where = f"corpus.dir={tmp_path / 'words'}"
    before = keys(where, corpus="speechcommands")
    (tmp_path / "words/no/00000002_nohash_0.wav").rename(tmp_path / "words/no/00000002_nohash_9.wav")
    renamed = keys(where, corpus="speechcommands")
    assert "1" in changed(before, renamed)
    (tmp_path / "words/testing_list.txt").write_text("no/00000002_nohash_9.wav\n")
    assert "1" in changed(renamed, keys(where, corpus="speechcommands"))


def test_a_folder_that_cannot_be_walked_has_keys(corpus):
    (corpus / "cat" / "gone.wav").symlink_to(corpus / "nowhere")
    assert "1" in keys(f"corpus.dir={corpus}")
    assert "1" in keys(f"corpus.dir={corpus / 'list.csv'}", "corpus.list=list.csv")


def test_a_source_made_anew_redoes_the_training_alone(tmp_path):
    def source_keys(*more):
        return keys(f"data.sources=[{{data_dir: {tmp_path}}}, {{weight: 2}}]", *more)

    absent = source_keys()
    (tmp_path / "manifests").mkdir()
    (tmp_path / "fbank" / "ast128").mkdir(parents=True)
    (tmp_path / "manifests" / "labels.csv").write_text("index,mid,display_name\n0,a,a\n")
    labelled = source_keys()
    assert changed(absent, labelled) == ["5", "6", "7", "8"]
    # Stored features come with a manifest of their own.
    cuts = tmp_path / "fbank" / "ast128" / "cuts_train.jsonl"
    cuts.write_text("{}\n")
    stored = source_keys()
    assert changed(labelled, stored) == ["5", "6", "7", "8"]
    os.utime(cuts, ns=(0, 0))
    assert changed(stored, source_keys()) == ["5", "6", "7", "8"]
    on_the_fly = "features.storage=on_the_fly"
    before = source_keys(on_the_fly)
    cuts.write_text("{}\n{}\n")
    assert source_keys(on_the_fly) == before
    (tmp_path / "manifests" / "cuts_train.jsonl").write_text("{}\n")
    assert changed(before, source_keys(on_the_fly)) == ["5", "6", "7", "8"]


def test_what_is_chosen_among_the_weights_to_start_from_redoes_the_training(tmp_path):
    model = f"init.model={tmp_path}"
    assert changed(keys(model), keys(model, "init.avg=2")) == ["5", "6", "7", "8"]
    assert keys(model, "init.avg=1") == keys(model)


def test_how_a_run_goes_about_its_work_redoes_nothing():
    assert keys("data.max_unreadable=0.2", "data.num_workers=9") == keys()


def test_an_edited_list_of_class_weights_redoes_the_training(corpus):
    path = corpus / "weights.csv"
    path.write_text("mid,weight\ncat,1\ndog,2\n")
    plain, given = keys(), f"loss.class_weights={path}"
    before = keys(given)
    assert (
        changed(plain, before) == ["5", "6", "7", "8"] == changed(plain, keys("loss.class_weights=balanced"))
    )
    assert keys(given) == before
    path.write_text("mid,weight\ncat,1\ndog,3\n")
    assert changed(before, keys(given)) == ["5", "6", "7", "8"]


def test_the_model_to_start_from_is_named_but_no_part_of_a_key(tmp_path, monkeypatch):
    file = tmp_path / "a model.pth"
    config = load_config(None, ["init.model=$MY_MODEL"])
    monkeypatch.delenv("MY_MODEL", raising=False)
    without = stage_keys(config)
    assert start_path(config) == start_path(load_config(None)) == ""
    monkeypatch.setenv("MY_MODEL", str(file))
    assert start_path(config) == ""
    file.write_bytes(b"weights")
    assert start_path(config) == str(file)
    (tmp_path / "exp/fold2").mkdir(parents=True)
    folds = load_config(None, ["corpus={name: esc50, fold: 2}", f"init.model={tmp_path / 'exp'}"])
    assert start_path(folds) == str(tmp_path / "exp/fold2")
    assert stage_keys(config) == without
    assert changed(without, stage_keys(load_config(None, [f"init.model={file}"]))) == ["5", "6", "7", "8"]
