"""AudioSet's lists as they come over the network: whole and unchanged, or not at all."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTS = {
    "class_labels_indices.csv": b"index,mid,display_name\n0,/m/1,One\n",
    **{
        f"{name}_segments.csv": b"# Segments csv\n" for name in ("balanced_train", "unbalanced_train", "eval")
    },
}


class Server(http.server.BaseHTTPRequestHandler):
    """Sends the lists with their hashes, one of them wrongly."""

    fault = ""

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        content = LISTS[name]
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        faulty = self.fault if name == "eval_segments.csv" else ""
        if faulty == "changed":
            content = content[:-3] + b"?" + content[-2:]
        if faulty == "broken off":
            # Without a length beforehand, in a part that ends before it has come.
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ff\r\n" + content)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-goog-hash", "crc32c=AAAAAA==")
        self.send_header("x-goog-hash", f"md5={md5}")
        self.end_headers()
        self.wfile.write(content[:-4] if faulty == "cut" else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """A function that runs stage 0's program against a server with a fault."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def run(fault: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr(Server, "fault", fault)
        url = f"http://127.0.0.1:{server.server_port}"
        return subprocess.run(
            ["bash", ROOT / "egs/audioset/local/data.sh", tmp_path],
            env={**os.environ, "AUDIOSET_LISTS_URL": url, "PYTHON": sys.executable, "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    yield run
    server.shutdown()
    thread.join()
    server.server_close()


def test_whole_lists(fetch, tmp_path):
    done = fetch("")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == LISTS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("changed", "the MD5 differs"),
        ("cut", "12 bytes|IncompleteRead|only 11 of 15"),
        ("broken off", "IncompleteRead"),
    ],
)
def test_a_list_that_was_changed_or_cut_on_its_way_is_refused(fetch, tmp_path, fault, message):
    done = fetch(fault)
    assert done.returncode == 2
    assert "eval_segments.csv could not be fetched" in done.stderr
    assert any(part in done.stderr for part in message.split("|")), done.stderr
    assert "Traceback" not in done.stderr
    # Those before it stay, and of it nothing.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(LISTS) - {"eval_segments.csv"})
    assert fetch("").returncode == 0
