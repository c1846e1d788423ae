"""The command: models of every form, what it writes, and how it ends."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from audiotag.bin import predict
from audiotag.errors import run_command
from audiotag.evaluation.scores import Scores
from tests.prediction.sounds import tiny_package, write
from tests.tiny import tiny_labels


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs the command in a folder with sounds and a model: (exit code, stdout, stderr)."""
    tiny_package(tmp_path / "model")
    for seed, (name, seconds, rate) in enumerate(
        [
            ("sounds/one.wav", 0.5, 16000),
            ("sounds/deep/long, er.flac", 2.0, 44100),
            ("sounds/two.ogg", 0.6, 8000),
        ]
    ):
        write(tmp_path / name, seconds, rate, seed=seed)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["predict", "--device", "cpu", *arguments])
        code = 0
        try:
            run_command(predict.main)
        except SystemExit as stop:
            code = stop.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_the_table_names_the_likeliest_classes(command):
    code, out, err = command("--model", "model", "sounds", "--top-k", "2")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "sounds/deep/long, er.flac  (2.00 s, 6 windows)"
    assert lines[3] == "sounds/one.wav  (0.50 s)"
    assert len(lines) == 9
    probability, *name, mid = lines[1].split()
    assert 0.0 < float(probability) < 1.0
    assert f"{' '.join(name)} {mid}" in {f"{label.name} {label.mid}" for label in tiny_labels()}
    assert float(probability) >= float(lines[2].split()[0])


def test_json_and_csv_say_the_same(command, tmp_path):
    code, out, _ = command("--model", "model", "sounds", "--format", "json", "--top-k", "3")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    paths = ["sounds/deep/long, er.flac", "sounds/one.wav", "sounds/two.ogg"]
    assert [item["path"] for item in found] == paths
    assert [item["windows"] for item in found] == [6, 1, 1]
    assert [item["duration_s"] for item in found] == [2.0, 0.5, 0.6]
    code, out, _ = command(
        "--model", "model", "sounds", "--format", "csv", "--top-k", "3", "--output", "out/tags.csv"
    )
    assert (code, out) == (0, "")
    rows = list(csv.DictReader((tmp_path / "out" / "tags.csv").open()))
    assert [row["path"] for row in rows] == [path for path in paths for _ in range(3)]
    assert [int(row["rank"]) for row in rows] == [1, 2, 3] * 3
    for row, tag in zip(rows, (tag for item in found for tag in item["tags"]), strict=True):
        assert {key: row[key] for key in tag} == {key: str(value) for key, value in tag.items()}


def test_thresholds_choose_classes(command, tmp_path):
    _, out, _ = command("--model", "model", "sounds", "--format", "json", "--top-k", "3")
    everything = [json.loads(line)["tags"] for line in out.splitlines()]
    values = sorted(tag["probability"] for tags in everything for tag in tags)
    middle = (values[3] + values[4]) / 2

    def expected(rule):
        return [[tag["mid"] for tag in tags if rule(tag)] for tags in everything]

    def chosen(*arguments):
        code, out, _ = command("--model", "model", "sounds", "--format", "json", *arguments)
        assert code == 0
        return [[tag["mid"] for tag in json.loads(line)["tags"]] for line in out.splitlines()]

    assert chosen("--threshold", str(middle)) == expected(lambda tag: tag["probability"] >= middle)
    assert chosen("--threshold", "0") == expected(lambda tag: True)
    assert chosen("--threshold", "1") == [[], [], []]
    assert chosen("--threshold", "0", "--top-k", "1") == [mids[:1] for mids in expected(lambda tag: True)]
    own = {"/m/000": 0.0, "/m/001": middle, "/m/002": 1.0}
    logits = {mid: math.log(p / (1 - p)) if 0 < p < 1 else (p - 0.5) * 1e3 for mid, p in own.items()}
    content = {
        "tuned_on": "valid",
        "shared": {"logit": 0.0},
        "classes": [{"mid": mid, "logit": logits[mid]} for mid in reversed(own)],
    }
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    assert chosen("--thresholds", "thresholds.json") == expected(
        lambda tag: tag["probability"] >= own[tag["mid"]]
    )
    _, out, _ = command("--model", "model", "sounds/one.wav", "--threshold", "1")
    assert out == "sounds/one.wav  (0.50 s)\n  no class reaches its threshold\n"


def test_files_that_fail_are_listed_and_the_others_tagged(command, tmp_path):
    (tmp_path / "sounds" / "bad.wav").write_bytes(b"RIFF, but no sound")
    arguments = ("--model", "model", "gone.wav", "sounds", "--format", "csv", "--output", "tags.csv")
    code, out, err = command(*arguments)
    assert (code, out) == (3, "")
    lines = err.splitlines()[-3:]
    assert lines[0] == "not tagged: gone.wav: missing: no such file"
    assert lines[1].startswith("not tagged: sounds/bad.wav: unreadable: ")
    assert lines[2] == "error: 2 of 5 files could not be tagged; they are listed above"
    rows = list(csv.DictReader((tmp_path / "tags.csv").open()))
    assert len({row["path"] for row in rows}) == 3


def test_an_output_is_there_whole_or_not_at_all(command, tmp_path, monkeypatch):
    (tmp_path / "tags.csv").write_text("of yesterday")
    monkeypatch.setattr(predict.Selection, "choose", lambda *_: 1 / 0)
    code, _, _ = command("--model", "model", "sounds", "--output", "tags.csv")
    assert code == 1
    assert (tmp_path / "tags.csv").read_text() == "of yesterday"
    assert not list(tmp_path.glob(".tags.csv*"))


def test_timelines_have_a_row_for_each_window_and_a_picture(command, tmp_path):
    arguments = ("--model", "model", "sounds", "sounds/deep/../one.wav", "--timeline", "times")
    code, _, err = command(*arguments, "--window-s", "0.5", "--hop-s", "0.25", "--timeline-classes", "2")
    assert code == 0, err
    names = ["deep/long, er.flac", "one.wav", "one.wav-2", "two.ogg"]
    made = [f"{name}.{kind}" for name in names for kind in ("csv", "png")]
    times = tmp_path / "times"
    assert sorted(str(path.relative_to(times)) for path in times.rglob("*") if path.is_file()) == sorted(made)
    assert (tmp_path / "times" / "two.ogg.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.reader((tmp_path / "times" / "deep" / "long, er.flac.csv").open()))
    assert rows[0][:2] == ["start_s", "end_s"]
    assert set(rows[0][2:]) < {f"{label.name} ({label.mid})" for label in tiny_labels()}
    assert [row[:2] for row in rows[1:3]] == [["0.000", "0.500"], ["0.250", "0.750"]]
    assert rows[-1][1] == "2.000"
    assert len(rows) == 1 + 7 and all(len(row) == 4 for row in rows)
    highest = np.array(rows[1:], float)[:, 2:].max(axis=0)
    assert highest[0] >= highest[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "gone", "sounds"), 4, "checkpoint not found: gone"),
        (("--model", "sounds", "sounds"), 4, "not an exported model"),
        (("--exp-dir", "gone", "sounds"), 4, "gone is not a folder of a run"),
        (("--exp-dir", "sounds", "sounds"), 4, "holds no epoch-<n>.pt"),
        (("--model", "model", "--avg", "3", "sounds"), 2, "go with --exp-dir"),
        (("--model", "model"), 2, "name audio files or folders"),
        (("--model", "model", "sounds", "--window-s", "9"), 2, "the model's input is 0.655 s long"),
        (("--model", "model", "sounds", "--threshold", "1.5"), 2, "expected a probability from 0 to 1"),
        (("--model", "model", "sounds", "--output", "model"), 2, "--output model is a folder"),
        (("--model", "model", "sounds", "--thresholds", "gone.json"), 3, "gone.json is missing"),
        (("--model", "model", "model"), 3, "no file to tag"),
    ],
)
def test_mistakes_are_told_in_a_line(command, arguments, code, words):
    found, _, err = command(*arguments)
    assert found == code
    assert words in err.splitlines()[-1]


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.slow
def test_predictions_are_the_scores_of_an_evaluation(recipe, loss):
    """Of checkpoints, exported folders and averages of a run, by either loss."""
    name = f"predicted-{loss}"
    done = recipe.train(name, "training.epochs=2", f"loss.name={loss}")
    assert done.returncode == 0, done.stderr
    exp = f"exp/{name}"
    common = ("--config", "config.yaml", "--exp-dir", exp)
    assert recipe.run("export", *common, "--avg", "2", "--dest", f"{exp}/export").returncode == 0
    exported = json.loads((recipe.folder / exp / "export" / "config.json").read_text())
    assert exported["loss"] == {"name": loss}
    windows = ("--set", "evaluation.window_s=0.5", "--set", "evaluation.hop_s=0.25")
    for weights in (("--avg", "2"), ("--epoch", "1")):
        done = recipe.run("evaluate", *common, "--split", "eval", *weights, *windows)
        assert done.returncode == 0, done.stderr
    folder = recipe.folder / exp
    in_windows = ("--window-s", "0.5", "--hop-s", "0.25")
    compare(
        recipe,
        folder / "eval_eval_epoch2-avg2-windows0.5-hop0.25",
        "--exp-dir",
        exp,
        "--avg",
        "2",
        *in_windows,
    )
    compare(
        recipe, folder / "eval_eval_epoch2-avg2-windows0.5-hop0.25", "--model", f"{exp}/export", *in_windows
    )
    compare(
        recipe, folder / "eval_eval_epoch1-windows0.5-hop0.25", "--model", f"{exp}/epoch-1.pt", *in_windows
    )


def compare(recipe, folder, *options):
    """Predictions of the eval clips' files against the scores that an evaluation stored."""
    scores = Scores.load(folder / "scores.npz")
    audio = recipe.folder / "corpus" / "audio" / "eval"
    arguments = ("--format", "json", "--top-k", "99", "--device", "cpu", "--batch-size", "7")
    done = recipe.run("predict", *options, *arguments, str(audio))
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        item = json.loads(line)
        tags = {tag["index"]: tag["probability"] for tag in item["tags"]}
        found[item["path"].rpartition("/")[2].removesuffix(".wav")] = [tags[i] for i in range(len(tags))]
    assert found.keys() == set(scores.ids)
    expected = 1 / (1 + np.exp(-scores.logits.astype(np.float64)))
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose([found[clip] for clip in scores.ids], expected, rtol=2e-5, atol=1e-7)
