"""A recipe's folds as the tasks of an array of a real Slurm, and the table over them."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster.cluster import WAIT_S, Cluster
from tests.corpora.publishedcorpora import make_esc50

pytestmark = pytest.mark.slow


def test_folds_are_an_array_and_the_table_comes_after_them(cluster: Cluster, tmp_path_factory):
    recipe = cluster.tree / "egs" / "esc50"
    (recipe / "run.sh").write_text((recipe / "run.sh").read_text().replace("FOLDS=5", "FOLDS=2"))
    (recipe / "conf" / "slurm.yaml").write_text("cpus: 1\n")
    corpus = make_esc50(tmp_path_factory.mktemp("ESC 50"), categories=3, takes=1)
    quick = (
        "--set",
        "training.epochs=1",
        "--set",
        "evaluation.bootstrap=0",
        "--config",
        "conf/ast_tiny.yaml",
    )
    done = subprocess.run(
        ["bash", "run.sh", "--recipe", "esc50", "--launcher", "slurm", "--wait", "--stop-stage", "7", *quick],
        cwd=cluster.tree,
        env={**cluster.environment, "ESC50": str(corpus)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * WAIT_S,
    )
    exp = recipe / "exp" / "ast_tiny"
    logs = "\n".join(path.read_text() for path in (exp / "log" / "slurm").glob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    assert "all jobs have succeeded" in done.stdout
    assert len(list((exp / "log" / "slurm").glob("folds-*_[12].log"))) == 2
    for fold in (1, 2):
        assert (exp / f"fold{fold}" / "RESULTS.md").is_file()
        assert f"task {fold} of array" in logs and f"fold {fold} of 5 is eval" in logs
    assert "epoch 1, the last (no selection)" in (exp / "RESULTS.md").read_text()
