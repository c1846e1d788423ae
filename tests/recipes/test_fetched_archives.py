"""An archive that is fetched is unpacked whole and unchanged, and where it shall be, or not at all."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLIPS = 12


@pytest.fixture
def content(tmp_path) -> Path:
    """A corpus: one file of noise, which no packing makes smaller, and one of silence."""
    folder = tmp_path / "content"
    (folder / "no").mkdir(parents=True)
    (folder / "no" / "noise.wav").write_bytes(random.Random(1).randbytes(30_000))
    (folder / "no" / "silence.wav").write_bytes(bytes(30_000))
    (folder / "list.txt").write_text("no/noise.wav\n")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(url: str, folder: Path, *checksum: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the program on an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return subprocess.run(
        [sys.executable, ROOT / "local" / "fetch_archive.py", url, folder, "list.txt", *checksum],
        env={**os.environ, "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess, folder: Path) -> str:
    """The one line with which a download was refused that has left nothing."""
    assert done.returncode == 2 and not list(folder.iterdir()), done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("packing", ["gztar", "zip"])
def test_a_flipped_bit_is_never_unpacked(content, tmp_path, packing):
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), packing, content, "."))
    whole, rng = archive.read_bytes(), random.Random(2)
    folder, found = tmp_path / "corpus", 0
    assert fetch(archive.as_uri(), folder).returncode == 0 and files(folder) == files(content)
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        archive.write_bytes(damaged)
        done = fetch(archive.as_uri(), folder)
        if done.returncode == 0:  # in a date, or the like
            assert files(folder) == files(content)
        else:
            assert "is no whole archive" in refused(done, folder)
            found += 1
    assert found > FLIPS // 2


def test_a_way_of_packing_that_nobody_knows(content, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", content, "."))
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"PK\1\2") + 10] = 99  # in the last entry of the table
    archive.write_bytes(data)
    assert "is no whole archive" in refused(fetch(archive.as_uri(), tmp_path / "corpus"), tmp_path / "corpus")


@pytest.fixture
def serve():
    """A function that serves bytes with headers, and gives their address."""
    answers: dict[str, tuple[bytes, dict[str, str]]] = {}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body, headers = answers[self.path]
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def at(body: bytes, **headers: str) -> str:
        path = f"/{len(answers)}.tar.gz"
        answers[path] = body, {name.replace("_", "-"): value for name, value in headers.items()}
        return f"http://127.0.0.1:{server.server_port}{path}"

    yield at
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_checksum_that_the_server_tells_is_compared(content, tmp_path, serve):
    body = Path(shutil.make_archive(str(tmp_path / "archive"), "gztar", content, ".")).read_bytes()
    told = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    other = base64.b64encode(bytes(16)).decode()
    folder = tmp_path / "corpus"
    assert fetch(serve(body, x_goog_hash=f"crc32c=AAAAAA==,md5={told}"), folder).returncode == 0
    assert files(folder) == files(content)
    done = fetch(serve(body, x_goog_hash=f"crc32c=AAAAAA==,md5={other}"), folder)
    assert "other bytes arrived than were sent: the MD5 differs" in refused(done, folder)
    # The hash is that of what lies there, and not of what was sent.
    packed = {"x_goog_hash": f"md5={other}", "x_goog_stored_content_encoding": "gzip"}
    assert fetch(serve(body, **packed), folder).returncode == 0
    assert "only" in refused(fetch(serve(body, Content_Length=str(len(body) + 1)), folder), folder)


def test_members_that_lead_out_of_the_folder_are_refused(tmp_path):
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("list.txt", "../../out.txt"):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    refused(fetch(archive.as_uri(), tmp_path / "corpus"), tmp_path / "corpus")
    assert not list(tmp_path.rglob("out.txt"))


def test_an_old_python_is_refused_before_anything_is_fetched(content, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sitecustomize.py").write_text("import tarfile\ndel tarfile.data_filter\n")
    old, folder = {"PYTHONPATH": str(tmp_path / "old")}, tmp_path / "corpus"
    message = refused(done := fetch("file:///nowhere.tar.gz", folder, **old), folder)
    assert "take 3.10.12, 3.11.4, 3.12 or newer" in message and "fetching" not in done.stdout
    zipped = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", content, "."))
    assert fetch(zipped.as_uri(), folder, **old).returncode == 0
    packed = Path(shutil.make_archive(str(tmp_path / "archive"), "tar", content, "."))
    shutil.move(packed, zipped)
    assert "would unpack this tar archive unsafely" in refused(fetch(zipped.as_uri(), folder, **old), folder)


def test_an_archive_is_compared_with_its_published_checksum(content, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "gztar", content))
    digest, folder = hashlib.sha256(archive.read_bytes()).hexdigest(), tmp_path / "corpus"
    assert fetch(archive.as_uri(), folder, digest).returncode == 0 and files(folder) == files(content)
    assert f"its SHA-256 is {digest}" in refused(fetch(archive.as_uri(), folder, "0" * 64), folder)
