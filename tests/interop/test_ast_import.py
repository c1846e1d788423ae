"""Original AST files: read without loss, adapted by request, written back the same, refused where they do not
fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from audiotag.bin import export, import_checkpoint
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import load_model
from audiotag.interop import astsizes
from audiotag.interop.ast import export_ast, read_ast
from audiotag.interop.importing import hints_of, import_model
from audiotag.interop.sourcemodel import Hints
from audiotag.provenance import file_digest
from tests.export.models import small_model
from tests.interop.asts import DATA, FRAMES, LABELS, STRIDES, original_state, reference, save_original

GIVEN = {"features": {"target_frames": FRAMES}, "encoder": {"num_heads": 3}}
EPSILONS = {"block_norm_eps": 1e-6, "final_norm_eps": 1e-6, "head_norm_eps": 1e-5}


def imported(path, given=GIVEN, labels=LABELS):
    return import_model(read_ast(path, hints_of(given)), labels, given)


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("case", STRIDES)
def test_logits_are_those_of_the_original(tmp_path, case, prefix):
    model, transfer = imported(save_original(tmp_path, case, prefix))
    assert (transfer.adapted, transfer.fresh, transfer.left) == ([], [], [])
    encoder = model.config["encoder"]
    assert (encoder["freq_stride"], encoder["time_stride"]) == STRIDES[case]
    assert {name: encoder[name] for name in EPSILONS} == EPSILONS
    assert model.config["features"]["target_frames"] == FRAMES
    tensors = reference()
    with torch.no_grad():
        logits = model.tagger.from_features(tensors["input.fbank"], torch.tensor([FRAMES, FRAMES]))
    torch.testing.assert_close(logits, tensors[f"{case}.act.logits"], rtol=0, atol=2e-5)


def test_all_tensors_of_the_published_size_are_known():
    listed = json.loads((DATA / "params_base384_stride10_527.json").read_text())
    shapes = {name.removeprefix("v."): shape for name, shape in listed}
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    sizes = astsizes.infer_sizes(weights, Hints(), Path("x.pth"), "an AST")
    assert sizes == {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0, "patch_size": 16}
    grid = astsizes.infer_grid(1214, 16, Hints(), Path("audioset_10_10_0.4593.pth"))
    assert grid == (10, 10, 1024)


def test_a_written_file_lists_the_tensors_of_the_original_in_its_order(tmp_path):
    listed = json.loads((DATA / "params_base384_stride10_527.json").read_text())
    small = {name for name, _ in listed if not name.startswith("v.blocks.") or name.split(".")[2] in "01"}
    model = small_model("ast")
    path = export_ast(tmp_path, model)
    assert path.name == "ast_16_16.pth"
    state = torch.load(path, weights_only=True)
    order = [f"module.{name}" for name, _ in listed if name in small]
    assert list(state) == order
    width = model.config["encoder"]["embed_dim"]
    for name in ("module.v.head.weight", "module.v.head_dist.weight"):
        assert state[name].shape == (1000, width)
        assert not state[name].any()


@pytest.mark.parametrize(
    ("name", "patches", "given", "expected"),
    [
        ("audioset_10_10_0.4593.pth", 1212, {}, (10, 10, 1024)),
        ("audioset_12_12_0.4467.pth", 850, {}, (12, 12, 1024)),
        ("audioset_14_14_0.4431.pth", 657, {}, (14, 14, 1024)),
        ("audioset_16_16_0.4422.pth", 512, {}, (16, 16, 1024)),
        ("audioset_bal_10_10_0.3499.pth", 1212, {}, (10, 10, 1024)),
        ("speechcommands_10_10_0.9812.pth", 144, {}, (10, 10, 128)),
        ("esc.pth", 600, {}, (10, 10, 512)),
        ("best_audio_model.pth", 850, {}, (12, 12, 1024)),
        # 8 rows of 64, which several strides give: the published one is taken, unless others are given that
        # fit a length that is given too. A configuration may ask for other strides than the file's.
        ("model.pth", 512, {}, (16, 16, 1024)),
        ("model.pth", 512, {"freq_stride": 15, "time_stride": 10, "target_frames": 650}, (15, 10, 650)),
        ("model.pth", 512, {"freq_stride": 15, "time_stride": 10}, (16, 16, 1024)),
        ("esc.pth", 600, {"freq_stride": 12, "time_stride": 12, "target_frames": 1024}, (10, 10, 512)),
        # 17 rows do not divide 512.
        ("model.pth", 512, {"freq_stride": 7, "time_stride": 10}, (16, 16, 1024)),
        # Not known, so of a stride of 10: 12 rows of 19.
        ("model.pth", 228, {}, (10, 10, 196)),
        ("model.pth", 228, {"target_frames": 204}, (10, 10, 204)),
        ("model.pth", 190, {"freq_stride": 12, "time_stride": 10}, (12, 10, 196)),
        # The name counts before what is given, which the model is then adapted to.
        ("audioset_10_10_0.4593.pth", 1212, {"freq_stride": 16, "time_stride": 16}, (10, 10, 1024)),
        ("run_3_4_of.pth", 850, {}, (12, 12, 1024)),
        ("run_0_0_of.pth", 850, {}, (12, 12, 1024)),
    ],
)
def test_strides_and_length_from_the_number_of_patches(name, patches, given, expected):
    hints = Hints(given, given.get("target_frames"))
    assert astsizes.infer_grid(patches + 2, 16, hints, Path(name)) == expected


def test_patches_that_nothing_explains_are_refused():
    with pytest.raises(CheckpointError, match=r"x\.pth: 131 patches.*encoder\.freq_stride"):
        astsizes.infer_grid(133, 16, Hints(), Path("x.pth"))


def test_the_corpus_of_a_published_model_follows_from_length_and_classes(tmp_path):
    state = original_state("s10")
    generator = torch.Generator().manual_seed(1)
    state["module.v.pos_embed"] = torch.randn(1, 146, 48, generator=generator)
    state["module.mlp_head.1.weight"] = torch.randn(35, 48, generator=generator)
    state["module.mlp_head.1.bias"] = torch.randn(35, generator=generator)
    source = read_ast(save_original(tmp_path, "s10", state=state), Hints({"num_heads": 3}))
    assert source.features["target_frames"] == 128
    assert (source.features["mean"], source.features["std"]) == (-6.845978, 5.5654526)
    assert source.num_classes == 35


def test_adapted_to_another_length_and_stride(tmp_path):
    path = save_original(tmp_path, "s10")
    given = {"features": {"target_frames": 128}, "encoder": {"num_heads": 3, "freq_stride": 16}}
    model, transfer = imported(path, given)
    assert transfer.adapted == [
        "position embedding from 12 x 19 to 8 x 12 patches (frequency cropped, time cropped)"
    ]
    state = original_state("s10", "")
    own = model.tagger.state_dict()
    image = state["v.pos_embed"][:, 2:].unflatten(1, (12, 19))
    expected = torch.cat([state["v.pos_embed"][:, :2], image[:, 2:10, 3:15].flatten(1, 2)], dim=1)
    assert torch.equal(own["encoder.pos_embed"], expected)
    assert torch.equal(own["head.weight"], state["mlp_head.1.weight"])
    with torch.no_grad():
        assert model.tagger.from_features(torch.zeros(1, 128, 128), torch.tensor([128])).shape == (1, 10)


def test_there_and_back_every_tensor_is_the_same(tmp_path, caplog):
    model, _ = imported(save_original(tmp_path, "s10"))
    with caplog.at_level(logging.WARNING):
        back = torch.load(export_ast(tmp_path / "back", model), weights_only=True)
    # Its heads are not as wide as those of the published models, and that is all that is lost.
    [record] = caplog.records
    assert "must be told: it has 3 attention heads;" in record.getMessage()
    state = original_state("s10")
    assert set(back) == set(state)
    for name, value in state.items():
        if ".v.head" not in name:
            assert torch.equal(back[name], value), name


def test_what_the_file_cannot_say_is_said_at_export(tmp_path, caplog):
    model = small_model("ast", loss="ce", mean=-5.0, std=3.0)
    export_ast(tmp_path, model)
    [said] = [record.getMessage() for record in caplog.records if "must be told" in record.getMessage()]
    for words in ("mean -5.0 and deviation 3.0", "softmax", "attention heads"):
        assert words in said


def test_other_eps_than_the_original_code_has_are_measured(tmp_path, caplog):
    given = {**GIVEN, "encoder": {**GIVEN["encoder"], "head_norm_eps": 1e-12}}
    with caplog.at_level(logging.WARNING):
        model, _ = imported(save_original(tmp_path, "s10"), given)
    assert "encoder.head_norm_eps is 1e-12, there 1e-05" in caplog.text
    caplog.clear()
    export_ast(tmp_path / "back", model)
    assert "1e-06 / 1e-06 / 1e-05, this model's 1e-06 / 1e-06 / 1e-12" in caplog.text
    assert "logits differ by up to" in caplog.text


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: {**state, "module.v.norm.weight": torch.zeros(3)},
            r"norm\.weight has shape \(3,\)",
        ),
        (
            lambda state: drop(state, "v.blocks.1.mlp.fc1.bias"),
            r"v\.blocks\.1\.mlp\.fc1\.bias is missing",
        ),
        (lambda state: drop(state, "v.blocks.0."), r"tensor blocks\.0\.mlp\.fc1\.weight is missing"),
        (lambda state: {**state, "module.decoder.bias": torch.zeros(1)}, r"unknown tensor decoder\.bias"),
        (lambda state: {f"x.{name}": value for name, value in state.items()}, "cls_token is missing"),
        (lambda state: {**state, "v.cls_token": torch.zeros(1, 1, 48)}, "missing|unknown"),
        (lambda state: {**state, "module.v.cls_token": 3}, r"v\.cls_token is not a tensor"),
        (lambda state: {}, "no weights by name"),
        (lambda state: [1, 2], "no weights by name"),
        (lambda state: {**state, "module.extra": Evil()}, "refused"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, capsys, change, words):
    path = save_original(tmp_path, "s10", state=change(original_state("s10")))
    with pytest.raises(CheckpointError, match=words) as caught:
        imported(path)
    assert str(path) in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def drop(state, start):
    return {name: value for name, value in state.items() if not name.startswith(f"module.{start}")}


def test_damaged_and_missing_files(tmp_path):
    path = save_original(tmp_path, "s10")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"0\.4593\.pth: (damaged|refused)"):
        imported(path)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="damaged"):
        imported(path)
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        imported(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        imported(tmp_path)


def test_heads_and_labels_must_be_told_where_weights_cannot(tmp_path, caplog):
    path = save_original(tmp_path, "s10")
    with pytest.raises(CheckpointError, match=r"a width of 48.*encoder\.num_heads"):
        imported(path, {})
    with pytest.raises(CheckpointError, match=r"10 classes, the label list 7.*init\.model"):
        imported(path, labels=type(LABELS)(LABELS[:7]))
    with caplog.at_level(logging.WARNING):
        model, _ = imported(path, labels=None)
    assert model.tagger.labels.names[3] == "class 3"
    assert "no --labels" in caplog.text


def test_a_file_is_held_against_the_digest_in_its_name(tmp_path):
    path = save_original(tmp_path, "s10")
    right = path.rename(tmp_path / f"tiny_10_10-{file_digest(path)[:8]}.pth")
    imported(right)
    dated = right.rename(tmp_path / "tiny_10_10-20240131.pth")
    imported(dated)
    wrong = dated.rename(tmp_path / "tiny_10_10-0000000a.pth")
    with pytest.raises(CheckpointError, match="its name says 0000000a: fetch it again"):
        imported(wrong)


def test_the_commands(tmp_path, monkeypatch):
    path = save_original(tmp_path, "s12_10")
    LABELS.write(tmp_path / "labels.csv")
    monkeypatch.chdir(tmp_path)

    def run(program, *arguments):
        monkeypatch.setattr("sys.argv", [program.__name__, *arguments])
        program.main()

    settings = ["--set", "encoder.num_heads=3", "--set", f"features.target_frames={FRAMES}"]
    source = ["--from", "ast", path.name, "model", "--labels", "labels.csv"]
    run(import_checkpoint, *source, *settings)
    info = json.loads((tmp_path / "model/config.json").read_text())["info"]
    assert info["imported_from"] == "ast"
    assert list(info["sha256"]) == [path.name]
    run(export, "--model", "model", "--to", "ast", "--dest", "back")
    back = torch.load("back/ast_12_10.pth", weights_only=True)
    state = original_state("s12_10")
    assert all(torch.equal(back[name], value) for name, value in state.items() if ".v.head" not in name)
    # Our own folders are adapted in the same way.
    run(import_checkpoint, "--from", "audiotag", "model", "shorter", "--set", "features.target_frames=100")
    shorter = load_model("shorter")
    assert shorter.tagger.encoder.grid == (10, 9)
    assert shorter.tagger.labels == LABELS
    with pytest.raises(ConfigError, match="--to ast writes an AST"):
        export_ast(tmp_path, small_model("zipformer"))
    with pytest.raises(ConfigError, match="features of preset ast128"):
        export_ast(tmp_path, small_model("ast", preset="beats128", target_frames=64))
    with pytest.raises(CheckpointError, match="no file or folder gone"):
        run(import_checkpoint, "--from", "ast", "gone", "model")
