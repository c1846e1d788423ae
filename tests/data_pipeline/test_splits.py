from __future__ import annotations

import json

import pytest

from audiotag.data.splits import manifest_path, open_split, read_coverage
from audiotag.errors import DataError

# As stage 1 wrote it before loudness and notes were counted: such files stay readable.
OLD = {"train": {"listed": 3, "present": 2, "skipped": {"missing": 1}, "seconds": 20.0, "classes": {}}}


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def test_statistics_join_the_splits_that_coverage_knows(tmp_path, write):
    measured = {"mean": -4.5, "std": 3.0, "num_clips": 2, "of_clips": 2}
    write("manifests/coverage.json", {**OLD, "eval": {"same": 1}, "notes": {"task": "single-label"}})
    write("stats/ast/stats.json", {"train": measured, "eval": measured, "valid": measured})
    coverage = read_coverage(tmp_path, "ast")
    assert coverage["train"] == {**OLD["train"], "features": measured}
    assert coverage["eval"] == {"same": 1, "features": measured}
    assert coverage["notes"] == {"task": "single-label"}
    assert set(coverage) == {"train", "eval", "notes"}


def test_without_statistics_coverage_is_as_stage_1_left_it(tmp_path, write):
    write("manifests/coverage.json", OLD)
    assert read_coverage(tmp_path) == read_coverage(tmp_path, "ast") == OLD


def test_missing_and_damaged_files_name_the_stage(tmp_path, write):
    with pytest.raises(DataError, match=r"coverage\.json is missing; stage 1 makes it"):
        read_coverage(tmp_path, "ast")
    write("manifests/coverage.json", "{")
    with pytest.raises(DataError, match=r"coverage\.json is damaged .* run stage 1 again"):
        read_coverage(tmp_path)
    write("manifests/coverage.json", OLD)
    write("stats/ast/stats.json", '{"train": {"mean": "high", "std": 1.0}}')
    with pytest.raises(DataError, match=r"stats\.json is damaged .* run stage 4 again"):
        read_coverage(tmp_path, "ast")


def test_manifests_of_either_storage(tmp_path):
    assert manifest_path(tmp_path, "eval", preset="ast128", storage="stored") == (
        tmp_path / "fbank" / "ast128" / "cuts_eval.jsonl"
    )
    for storage, stage in (("stored", 2), ("on_the_fly", 1)):
        with pytest.raises(DataError, match=f"cuts_eval.jsonl is missing; stage {stage} makes it"):
            open_split(tmp_path, "eval", preset="ast128", storage=storage)
