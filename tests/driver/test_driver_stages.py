"""What the driver runs, skips, redoes and refuses, with real stages on a tiny corpus."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import socket
import subprocess
import threading

import pytest
from clone import add_recipe, environment, lines_with

FAILING = """
echo "reading clip -rf"
seq -f 'line %g' 40
echo "cannot read it" >&2
exit 7
"""


def states(done):
    """What the driver said of each stage: started, already done, nothing to do."""
    said = re.findall(r"\[stage (\d): \w+\] (started|already done|nothing to do)", done.stdout)
    return {int(stage): state for stage, state in said}


def test_finished_stages_are_skipped_and_changed_inputs_redone(tree, drive):
    mini = tree / "egs" / "mini"
    first = drive("--stop-stage", "1")
    assert first.returncode == 0, first.stderr + first.stdout
    assert states(first) == {0: "started", 1: "started"}
    assert lines_with(first.stdout, "[stage 0: corpus] finished")[0].endswith(f": {mini}/corpus")
    assert lines_with(first.stdout, "[stage 1: manifests] finished")[0].endswith(f": {mini}/data/manifests")
    assert "listed: train 30, eval 12" in (mini / "data/log/stage1.log").read_text()

    again = drive("--stop-stage", "1")
    assert states(again) == {0: "already done", 1: "already done"}

    other_split = ["--set", "corpus.valid_share=0.3"]
    assert states(drive("--stop-stage", "1", *other_split)) == {0: "already done", 1: "started"}

    # A stage whose input was made with other settings does not start.
    stale = drive("--stage", "2", "--stop-stage", "2")
    assert stale.returncode == 2
    assert "stage 1 made it with other settings: run with --stage 1" in stale.stderr

    forced = drive("--stage", "1", "--stop-stage", "1", "--force", *other_split)
    assert states(forced) == {1: "started"}

    # More clips: another corpus, hence other manifests.
    more = drive("--stop-stage", "1", *other_split, env={"MINI_EVAL_CLIPS": "13"})
    assert states(more) == {0: "started", 1: "started"}

    # A deleted product is made again, and with the folder its mark is gone.
    (mini / "data/manifests/cuts_train.jsonl").unlink()
    assert states(drive("--stop-stage", "1", *other_split, env={"MINI_EVAL_CLIPS": "13"}))[1] == "started"


def test_force_generates_the_corpus_anew(tree, drive):
    assert drive("--stop-stage", "0").returncode == 0
    path = next((tree / "egs/mini/corpus/audio/train").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:44] + bytes(len(content) - 44))
    assert states(drive("--stop-stage", "0", "--force")) == {0: "started"}
    assert path.read_bytes() == content


def test_runs_of_a_recipe_prepare_its_data_one_after_the_other(tree, drive):
    data = tree / "egs/mini/data"
    data.mkdir()
    holder = subprocess.Popen(
        ["flock", str(data / ".lock"), "sh", "-c", "echo locked; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    timer = threading.Timer(3, holder.communicate, ["go\n"])
    timer.start()
    done = drive("--stop-stage", "1")
    timer.join()
    assert done.returncode == 0, done.stderr
    assert f"waiting for another run that prepares {data}" in done.stdout
    assert states(done) == {0: "started", 1: "started"}


def test_an_input_made_anew_redoes_what_depends_on_it(tree, drive):
    assert drive("--stop-stage", "1").returncode == 0
    os.utime(tree / "egs/mini/corpus/.done", (2**31, 2**31))
    assert states(drive("--stop-stage", "1")) == {0: "already done", 1: "started"}


def test_a_stage_without_its_input_names_the_stage_that_makes_it(drive):
    missing = {
        "1": ("corpus", 0),
        "2": ("data/manifests/cuts_train.jsonl", 1),
        "5": ("data/manifests/cuts_train.jsonl", 1),
        "7": ("exp/ast_tiny/eval_*/metrics.json", 6),
        "8": ("exp/ast_tiny/epoch-*.pt", 5),
    }
    for stage, (path, maker) in missing.items():
        done = drive("--stage", stage)
        assert done.returncode == 2
        assert (
            f"stage {stage} needs {path}, which stage {maker} makes: run with --stage {maker}" in done.stderr
        )


def test_idle_stages_say_why(tree, drive):
    (tree / "egs/mini/data/manifests").mkdir(parents=True)
    (tree / "egs/mini/data/manifests/cuts_train.jsonl").touch()
    done = drive("--stage", "2", "--stop-stage", "3", "--set", "features.storage=on_the_fly")
    assert done.returncode == 0, done.stderr
    assert states(done) == {2: "nothing to do", 3: "nothing to do"}


def test_a_given_corpus_is_not_generated_into(tree, drive, tmp_path):
    corpus = tmp_path / "mine"
    corpus.mkdir()
    done = drive("--stop-stage", "0", "--set", f"corpus.dir={corpus}")
    assert states(done) == {0: "nothing to do"}
    assert list(corpus.iterdir()) == []


def test_a_failing_stage_shows_command_log_and_exit_code(tree, drive):
    recipe = add_recipe(tree, "broken", FAILING)
    done = drive("--recipe", "broken")
    log = recipe / "data/log/stage0.log"
    assert done.returncode == 7
    assert "[stage 0: corpus] FAILED with exit code 7" in done.stderr
    assert f"whole log: {log}" in done.stderr
    shown = [line for line in done.stderr.splitlines() if line.startswith("    | ")]
    assert len(shown) == 20
    assert shown[-1] == "    | cannot read it"
    assert "reading clip -rf" in log.read_text()
    # The command can be pasted: it fails in the same way.
    command = lines_with(done.stderr, "  command: ")[0].removeprefix("  command: ")
    assert shlex.split(command)[:2] == ["cd", str(recipe)]
    assert subprocess.run(["bash", "-c", command], env=environment(), capture_output=True).returncode == 7
    # An unfinished stage counts as such.
    again = drive("--recipe", "broken")
    assert again.returncode == 7
    assert log.read_text().count("cannot read it") == 2


def test_errors_of_the_program_reach_the_user_with_their_exit_code(tree, drive):
    assert drive("--stop-stage", "0").returncode == 0
    (tree / "egs/mini/corpus/class_labels_indices.csv").write_text("nonsense\n")
    done = drive("--stage", "1")
    assert done.returncode == 3
    assert "class_labels_indices.csv" in lines_with(done.stderr, "    | error: ")[0]
    assert states(done) == {1: "started"}


def test_a_mistake_in_the_config_ends_the_run_before_any_stage(tree, drive):
    done = drive("--set", "encoder.dept=3")
    assert done.returncode == 2
    assert "unknown key 'encoder.dept' (did you mean 'encoder.depth'?)" in done.stderr
    assert not (tree / "egs/mini/corpus").exists()


def test_audioset_says_what_to_set_and_what_to_fetch(tree, drive, tmp_path):
    unset = drive("--recipe", "audioset")
    assert unset.returncode == 2
    assert "AUDIOSET is not set: write the folder of your copy into db.sh" in unset.stderr
    corpus = tmp_path / "audio set"
    away = drive("--recipe", "audioset", env={"AUDIOSET": str(corpus)})
    assert f"AUDIOSET={corpus} is not a folder" in away.stderr
    corpus.mkdir()
    # Nothing listens on port 9 of this machine.
    offline = {"AUDIOSET": str(corpus), "AUDIOSET_LISTS_URL": "http://127.0.0.1:9/csv"}
    missing = drive("--recipe", "audioset", env=offline)
    assert missing.returncode == 2
    assert "could not be fetched (is this machine offline?)" in missing.stderr
    assert f"save it as {corpus}/class_labels_indices.csv" in missing.stderr
    assert list(corpus.iterdir()) == []


def test_audioset_fetches_lists_and_refuses_other_pages(tree, drive, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    lists = ["balanced_train_segments", "unbalanced_train_segments", "eval_segments"]
    for name in lists:
        (served / f"{name}.csv").write_text("# Segments csv created in a test\n")
    (served / "class_labels_indices.csv").write_text("<html>please log in</html>\n")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    env = {"AUDIOSET": str(corpus), "AUDIOSET_LISTS_URL": served.as_uri()}
    refused = drive("--recipe", "audioset", "--stop-stage", "0", env=env)
    assert refused.returncode == 2
    assert list(corpus.iterdir()) == []
    (served / "class_labels_indices.csv").write_text("index,mid,display_name\n")
    fetched = drive("--recipe", "audioset", "--stop-stage", "0", env=env)
    assert fetched.returncode == 0, fetched.stderr
    assert {path.name for path in corpus.iterdir()} == {path.name for path in served.iterdir()}


TINY_MODEL = """
corpus: {train_lists: [train_segments.csv], eval_lists: [eval_segments.csv], valid_share: 0.2}
features: {target_frames: 64, storage: on_the_fly}
encoder: {embed_dim: 16, depth: 1, num_heads: 2, freq_stride: 16, time_stride: 16}
data: {batch_size: 8, num_workers: 0}
training: {epochs: 1}
"""


def test_training_to_results_and_what_later_checkpoints_redo(tree, drive):
    (tree / "egs/mini/conf/small.yaml").write_text(TINY_MODEL)
    exp = tree / "egs/mini/exp/small"
    done = drive("--config", "conf/small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (exp / "RESULTS.md").is_file() and (exp / "export/model.safetensors").is_file()
    late = ("--config", "conf/small.yaml", "--stage", "6")
    assert states(drive(*late)) == {6: "already done", 7: "already done", 8: "already done"}
    # What a stage left is gone or cut short: the advice to run that stage again must work.
    (exp / "eval_eval_epoch1" / "scores.npz").write_bytes(b"")
    assert states(drive(*late, "--stop-stage", "6")) == {6: "started"}
    (tree / "egs/mini/data/manifests/labels.csv").unlink()
    assert states(drive("--config", "conf/small.yaml", "--stage", "1", "--stop-stage", "1")) == {1: "started"}
    assert drive("--config", "conf/small.yaml", "--stop-stage", "4").returncode == 0
    (exp / "epoch-1.pt").write_bytes(b"")
    # It may yet be mended, from a copy: nobody overwrites it unasked.
    refused = drive("--config", "conf/small.yaml", "--stage", "5", "--stop-stage", "5")
    assert refused.returncode == 4
    assert "none of its checkpoints can be read; start it afresh with --restart" in refused.stderr
    (exp / "epoch-1.pt").unlink()
    trained = drive("--config", "conf/small.yaml", "--stage", "5", "--stop-stage", "5")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (exp / "epoch-1.pt").stat().st_size > 1000
    # A checkpoint that came in the meantime, from whatever called the training.
    os.utime(exp / "epoch-1.pt", (2**31, 2**31))
    assert states(drive(*late, "--stop-stage", "6")) == {6: "started"}


@pytest.mark.slow
def test_the_exit_code_of_the_process_that_failed_comes_through_torchrun(tree, drive):
    (tree / "egs/mini/conf/small.yaml").write_text(TINY_MODEL)
    assert drive("--config", "conf/small.yaml", "--stop-stage", "4").returncode == 0
    diverging = ("--set", "optimizer.lr=1e30", "--set", "training.clip_norm=null")
    done = drive("--config", "conf/small.yaml", "--stage", "5", "--ngpu", "2", *diverging)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "was not made: " in done.stderr or "output on valid is" in done.stderr


@pytest.mark.slow
def test_a_second_training_in_the_same_folder_is_refused(tree, drive):
    (tree / "egs/mini/conf/small.yaml").write_text(TINY_MODEL)
    assert drive("--config", "conf/small.yaml", "--stop-stage", "4").returncode == 0
    exp = tree / "egs/mini/exp/small"
    exp.mkdir(parents=True)
    with (exp / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = drive("--config", "conf/small.yaml", "--stage", "5")
    assert done.returncode == 2
    assert f"another run is training in {exp}: wait for it, or take another --tag" in done.stderr
    assert drive("--config", "conf/small.yaml", "--stage", "5", "--stop-stage", "5").returncode == 0


def test_a_place_that_cannot_be_written_is_named(tree, drive):
    (tree / "egs/mini/data").write_text("a file where a folder should be")
    done = drive("--stop-stage", "0")
    assert done.returncode == 6
    assert f"error: cannot write into {tree}/egs/mini/data: check its permissions" in done.stderr


def test_a_port_in_use_is_named(drive):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        nodes = ("--num-nodes", "2", "--stage", "5", "--stop-stage", "5")
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        done = drive(*nodes, env=there)
    assert done.returncode == 2
    assert f"MASTER_PORT={port} is in use on this machine" in done.stderr
