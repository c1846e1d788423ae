"""The driver's command line: help, spellings, refusals, dry runs, recipes from everywhere."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from clone import add_recipe, lines_with


def options_of(tree):
    """Names in the one table that parser and help are made from."""
    table = (tree / "local" / "options.sh").read_text().split("OPTION_TABLE='")[1].split("'")[0]
    return [line.split("|")[0].strip() for line in table.strip().splitlines()]


def test_help_lists_every_option_and_stage(tree, drive):
    done = drive("--help")
    assert done.returncode == 0, done.stderr
    names = options_of(tree)
    assert len(names) > 10
    assert re.findall(r"^  --([a-z-]+)", done.stdout, re.MULTILINE) == names
    assert done.stdout.count("(default:") >= len(names) - 1
    assert re.findall(r"^  (\d) [a-z]+: ", done.stdout, re.MULTILINE) == list("012345678")
    assert "conf/ast_tiny.yaml" in done.stdout
    assert "ast_balanced.yaml" in drive("--recipe", "audioset", "--help").stdout


def test_every_option_in_the_table_is_read_by_the_driver(tree):
    code = (tree / "run.sh").read_text() + "".join(path.read_text() for path in (tree / "local").glob("*.sh"))
    for name in options_of(tree):
        assert f"OPT[{name}]" in code or name == "set", name


@pytest.mark.parametrize(
    "spelling",
    [
        ["--stage", "2", "--stop-stage", "4"],
        ["--stage=2", "--stop_stage=4"],
        ["--stage", "2", "--stop_stage", "4"],
    ],
)
def test_spellings_mean_the_same(drive, spelling):
    done = drive("--dry-run", *spelling)
    assert re.findall(r"# stage (\d)", done.stdout) == ["2", "3", "4"], done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stop_stge", "3"], "unknown option --stop_stge; did you mean --stop-stage?"),
        (["--conf", "x.yaml"], "unknown option --conf; did you mean --config?"),
        (["--nonsense=3"], "unknown option --nonsense=3; see"),
        (["train"], "unknown option train; see"),
        (["--"], "unknown option --; see"),
        (["--$(touch injected)", "1"], "unknown option --$(touch injected)"),
        (["--tag"], "--tag needs a value: --tag NAME"),
        (["--tag", "--force"], "--tag needs a value: --tag NAME"),
        (["--tag", ""], "--tag needs a value"),
        (["--tag", "../x"], "--tag '../x': expected a plain folder name"),
        (["--force=yes"], "--force takes no value"),
        (["--set", "epochs"], "--set epochs: expected KEY=VALUE"),
        (["--stage", "two"], "--stage two: expected a whole number"),
        (["--stage", "9"], "--stage 9: stages are 0 to 8"),
        (["--stage", "5", "--stop-stage", "3"], "--stage 5 comes after --stop-stage 3"),
        (["--nj", "0"], "--nj must be at least 1"),
        (["--max-duration", "0"], "--max-duration must be at least 1"),
        (["--epoch", "3", "--best"], "--epoch and --best exclude each other"),
        (["--recipe", "minni"], "unknown recipe 'minni'; there are: as20k audioset esc50 mini mydata"),
        (["--recipe", "../egs/mini"], "unknown recipe '../egs/mini'; there are"),
        (["--config", "conf/none.yaml"], "the recipe has: conf/ast_tiny.yaml"),
        (["--num-nodes", "2"], "add --stage 5 --stop-stage 5"),
        (["--num-nodes", "2", "--stage", "5", "--stop-stage", "5"], "--num-nodes 2 needs MASTER_ADDR"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(tree, drive, arguments, message):
    done = drive("--dry-run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not (tree / "injected").exists()


def test_dry_run_prints_commands_and_runs_nothing(tree, drive):
    before = sorted(tree.rglob("*"))
    # An interpreter that does not exist would be noticed if anything ran.
    done = drive("--dry-run", env={"AUDIOTAG_PYTHON": "/nowhere/python"})
    assert done.returncode == 0, done.stderr
    assert sorted(tree.rglob("*")) == before
    modules = re.findall(r"-m audiotag\.bin\.(\w+)", done.stdout)
    expected = "prepare extract_features prepare_noise stats train evaluate report export"
    assert modules == expected.split()
    assert "local/data.sh corpus" in done.stdout


def test_values_with_blanks_and_quotes_survive(drive):
    values = ['title=it\'s "a" $HOME `test` *', "evaluation.splits=[valid, eval]", "optimizer.lr=-1"]
    sets = [argument for value in values for argument in ("--set", value)]
    done = drive("--dry-run", "--stage", "5", "--stop-stage", "5", *sets)
    command = shlex.split(lines_with(done.stdout, "bin.train")[0])
    given = [command[i + 1] for i, word in enumerate(command) if word == "--set"]
    assert given == ["corpus.dir=corpus", *values]


def test_choices_of_weights_become_settings(drive):
    best = drive("--dry-run", "--stage", "6", "--best", "--avg", "3").stdout
    assert "evaluation.best=true" in best and "evaluation.epoch=null" in best and "evaluation.avg=3" in best
    epoch = drive("--dry-run", "--stage", "6", "--epoch", "7").stdout
    assert "evaluation.epoch=7" in epoch and "evaluation.best=false" in epoch
    average = drive("--dry-run", "--stage", "6", "--avg", "3").stdout
    averaged = drive("--dry-run", "--stage", "6", "--epoch", "7", "--avg", "3", "--use-averaged-model").stdout
    assert "evaluation.use_averaged_model=true" in averaged and "evaluation.weights=model" in averaged
    for printed in (best, epoch, average, averaged):
        for other in ("best_k", "checkpoints", "between"):
            assert f"evaluation.{other}=null" in printed
    assert "evaluation." not in drive("--dry-run", "--stage", "6").stdout


@pytest.mark.parametrize(
    ("arguments", "launcher"),
    [
        ([], "python -m "),
        (["--ngpu", "1"], "python -m "),
        (["--ngpu", "3"], "SIGUSR1 --standalone --nproc-per-node 3 -m "),
    ],
)
def test_several_processes_start_through_torchrun(drive, arguments, launcher):
    done = drive(
        "--dry-run", "--stage", "5", "--stop-stage", "6", *arguments, env={"AUDIOTAG_PYTHON": "/p/python"}
    )
    for module in ("audiotag.bin.train", "audiotag.bin.evaluate"):
        assert launcher + module in done.stdout, done.stderr


def test_several_nodes_meet_at_the_given_address(drive):
    nodes = {"MASTER_ADDR": "node-a", "MASTER_PORT": "29501", "NODE_RANK": "1"}
    arguments = ["--dry-run", "--stage", "5", "--stop-stage", "5", "--num-nodes", "2", "--ngpu", "4"]
    done = drive(*arguments, env=nodes)
    assert (
        "--nnodes 2 --node-rank 1 --master-addr node-a --master-port 29501 --nproc-per-node 4" in done.stdout
    )
    assert "NODE_RANK=2: expected 0 to 1" in drive(*arguments, env={**nodes, "NODE_RANK": "2"}).stderr


def test_visible_gpus_are_counted_hidden_and_not_exceeded(drive):
    gpus = {"CUDA_VISIBLE_DEVICES": "2,5,7"}
    arguments = ["--dry-run", "--stage", "5", "--stop-stage", "5"]
    assert "--nproc-per-node 3" in drive(*arguments, env=gpus).stdout
    assert "CUDA_VISIBLE_DEVICES=2,5 " in drive(*arguments, "--ngpu", "2", env=gpus).stdout
    assert "CUDA_VISIBLE_DEVICES= " in drive(*arguments, "--ngpu", "0", env=gpus).stdout
    assert "--ngpu 4: only 3 GPUs are visible" in drive(*arguments, "--ngpu", "4", env=gpus).stderr


def test_recipes_run_from_their_folder_and_from_anywhere(tree, drive, tmp_path):
    arguments = ["--dry-run", "--stage", "1", "--stop-stage", "1"]
    usual = drive(*arguments).stdout
    assert f"cd '{tree / 'egs' / 'mini'}' && " in usual
    for cwd in (tree / "egs" / "mini", tree / "egs", tmp_path):
        done = drive(*arguments, script="egs/mini/run.sh", cwd=cwd, env={"CDPATH": "/:/tmp"})
        assert done.stdout == usual, done.stderr
    refused = drive("--recipe", "audioset", script="egs/mini/run.sh")
    assert refused.returncode == 2
    assert "this is the run.sh of recipe mini" in refused.stderr


def test_config_is_found_in_the_recipe_then_in_the_current_folder(tree, drive, tmp_path):
    shutil.copy(tree / "egs/mini/conf/ast_tiny.yaml", tmp_path / "own.yaml")
    arguments = ["--dry-run", "--stage", "5", "--stop-stage", "5"]
    own = drive(*arguments, "--config", "own.yaml", cwd=tmp_path).stdout
    assert f"--config {tmp_path / 'own.yaml'} " in own
    assert "--exp-dir exp/own" in own
    (tmp_path / "conf").mkdir()
    shutil.copy(tmp_path / "own.yaml", tmp_path / "conf" / "ast_tiny.yaml")
    assert "--config conf/ast_tiny.yaml " in drive(*arguments, cwd=tmp_path).stdout


def test_a_new_recipe_is_a_folder(tree, drive):
    add_recipe(tree, "another", "exit 0\n")
    done = drive("--recipe", "another", "--dry-run", "--stop-stage", "0")
    assert "egs/another" in done.stdout, done.stderr


def test_a_duration_takes_the_place_of_a_batch_size(drive):
    for spelling in (("--max-duration", "1000"), ("--max_duration=1000",)):
        printed = drive("--dry-run", "--stage", "5", "--stop-stage", "5", *spelling).stdout
        assert "data.batch_size=null" in printed and "data.max_duration_s=1000" in printed
    assert "max_duration_s" not in drive("--dry-run", "--stage", "5", "--stop-stage", "5").stdout
