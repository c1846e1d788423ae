"""Variables of db.sh in paths of a configuration."""

from pathlib import Path

import pytest

from audiotag.errors import ConfigError
from audiotag.places import of_this_fold, resolve_place


def test_variables_become_what_the_environment_has(monkeypatch):
    monkeypatch.setenv("MODELS", "/data/my models")
    assert resolve_place("$MODELS", "init.model") == "/data/my models"
    assert resolve_place("${MODELS}/deit.pth", "init.model") == "/data/my models/deit.pth"
    assert resolve_place("models/deit.pth", "init.model") == "models/deit.pth"


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named_with_its_key(monkeypatch, value):
    monkeypatch.delenv("MODELS", raising=False)
    if value is not None:
        monkeypatch.setenv("MODELS", value)
    with pytest.raises(ConfigError, match=r"init\.model is \$MODELS.*MODELS is not set.*db\.sh"):
        resolve_place("$MODELS", "init.model")


def test_the_folder_of_a_cross_validation_stands_for_the_run_of_a_fold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("exp/ast/fold1").mkdir(parents=True)
    assert of_this_fold("exp/ast", 1) == "exp/ast/fold1"
    assert of_this_fold("exp/ast", 2) == "exp/ast/fold2"  # which is then missed by its name
    for place, fold in (("exp/ast", None), ("exp/ast/fold1", 1), ("./exp", 1), ("MIT/ast", 1)):
        assert of_this_fold(place, fold) == place


def test_what_a_variable_holds_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("MODELS", "/data/$HOME")
    assert resolve_place("$MODELS", "init.model") == "/data/$HOME"
