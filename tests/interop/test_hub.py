"""Names of models: paths win, the hub's cache and a server in its place serve, and what fails is said."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audiotag.errors import CheckpointError, ConfigError
from audiotag.interop.hfexport import export_huggingface
from audiotag.interop.hub import find_model
from audiotag.places import is_hub_name
from tests.conftest import ROOT
from tests.export.models import small_model

pytest.importorskip("huggingface_hub")

NAME = "somebody/tiny-ast"
REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that knows no model, one behind terms, and asks of all others to be found."""

    def do_GET(self):
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """import_checkpoint --from hf in a process of its own, since the client reads its variables once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "audiotag.bin.import_checkpoint", "--from", "hf", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hf home"), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def fill_cache(folder: Path) -> Path:
    """The client's cache as it is after a download of a model."""
    repository = folder / "hf home" / "hub" / "models--somebody--tiny-ast"
    snapshot = repository / "snapshots" / REVISION
    export_huggingface(snapshot, small_model("ast"), {})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return snapshot


@pytest.mark.slow
def test_a_name_is_found_in_the_cache_without_a_network(tmp_path):
    fill_cache(tmp_path)
    done = run(tmp_path, NAME, "model", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()
    # The same where nothing answers.
    done = run(tmp_path, NAME, "again", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr


def test_a_path_of_that_name_wins(tmp_path):
    export_huggingface(tmp_path / NAME, small_model("ast"), {})
    done = run(tmp_path, NAME, "model", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "offline", "words"),
    [
        ("somebody/gated", False, "only to those who accepted its terms"),
        ("somebody/unknown", False, "no public model of that name on the Hugging Face hub"),
        ("somebody/unknown", True, "the Hugging Face hub cannot be reached"),
    ],
)
def test_what_the_hub_does_not_give(tmp_path, hub, name, offline, words):
    variables = {"HF_HUB_OFFLINE": "1"} if offline else {"HF_ENDPOINT": hub}
    done = run(tmp_path, name, "model", **variables)
    assert done.returncode == CheckpointError.exit_code
    assert words in done.stderr
    assert name in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_what_can_be_a_name(tmp_path):
    assert is_hub_name("MIT/ast-finetuned-audioset-10-10-0.4593")
    for text in ("model", "a/b/c", "./a/b", "/a/b", "a/deit.pth", "exp/epoch-3.pt", "~/model"):
        assert not is_hub_name(text), text
    with pytest.raises(CheckpointError, match=r"init\.model: there is no file or folder a/b"):
        find_model("a/b", "init.model", "ast")


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"no file or folder a/b.*pip install -e '\.\[hf\]'"):
        find_model("a/b", "SOURCE", "hf")
