"""`bodyparts serve` as its user starts and ends it. What it answers: tests/deploy."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detectron2_bodyparts.cli import main
from detectron2_bodyparts.commands.serve import page_url

MODULES = ("fastapi", "uvicorn", "websockets", "python_multipart", "swagger_ui_bundle")
ROOT = Path(__file__).resolve().parents[2]

needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES),
    reason="needs detectron2_bodyparts[serve]",
)


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command in a process of its own, and the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detectron2_bodyparts.cli", "serve", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def error_of(capsys, *options: str) -> str:
    """What the command says when it does not start: one line."""
    assert main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("missing", MODULES)
def test_a_missing_extra_is_named(missing, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    assert "pip install 'detectron2_bodyparts[serve]'" in error_of(capsys)


@needs_extra
def test_what_keeps_it_from_starting_is_said_in_one_line(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in error_of(capsys, "--port", port)
    assert "port 99999" in error_of(capsys, "--port", "99999")
    assert "not.onnx" in error_of(capsys, "--port", "0", "--model", str(tmp_path / "not.onnx"))
    assert "--token" in error_of(capsys, "--token", "")
    for limit in ("--max-megapixels", "--max-megabytes", "--threads"):
        assert "greater than 0" in error_of(capsys, limit, "0")


@needs_extra
def test_it_serves_until_it_is_interrupted():
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with started("--port", "0", "--max-megabytes", "0.001") as (process, said):
        url = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C", said)[1]
        with urllib.request.urlopen(f"{url}healthz") as answer:
            assert answer.status == 200 and "server" not in answer.headers
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(f"{url}predict", data=bytes(1100))
        with connect(f"{url.replace('http', 'ws')}stream") as stream:
            stream.send(bytes(1100))
            with pytest.raises(ConnectionClosed, match="1009"):
                stream.recv(timeout=20)
        with connect(f"{url.replace('http', 'ws')}stream"):  # still open at the end
            process.send_signal(signal.SIGINT)
            output, error = process.communicate(timeout=20)
        assert (process.returncode, output, error) == (0, "", "")


@needs_extra
def test_elsewhere_it_makes_up_a_token():
    with started("--host", "0.0.0.0", "--port", "0") as (_, said):
        port, token = re.match(r"http://.*:(\d+)/\?token=([\w-]{20,})  ", said).groups()
        url = f"http://127.0.0.1:{port}/schema"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url)
        with urllib.request.urlopen(f"{url}?token={token}") as answer:
            assert answer.status == 200


def test_urls():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert page_url("localhost", listener, None) == f"http://localhost:{port}/"
        assert page_url("::1", listener, "a b&c") == f"http://[::1]:{port}/?token=a+b%26c"
        assert page_url("0.0.0.0", listener, None) == f"http://{socket.gethostname()}:{port}/"
