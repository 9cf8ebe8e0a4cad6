"""Models of the hub without a network: one line, soon, whatever the network and the cache are."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, clear, one_line

from tokensieve.core.models import hub

ID = "somebody/some-model"
COMMANDS = {
    "show": ["show", "fastv", "--model", ID],
    "run": ["run", "--model", ID],
    "doctor": ["doctor", ID],
    "plan": ["study", "--model-id", ID, "--task", "digits", "--dry-run"],
}
LIMIT = 20.0  # seconds for a line: what asks a network waits for minutes


class Server:
    """Accepts, and answers with ``answer`` or never."""

    def __init__(self, answer: bytes | None, close: bool) -> None:
        self.answer, self.close = answer, close
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
                if self.answer is not None:
                    connection.recv(4096)
                    connection.sendall(self.answer)
                if self.close:
                    connection.close()
                else:
                    self.held.append(connection)
            except OSError:
                return

    def stop(self) -> None:
        for connection in [self.socket, *self.held]:
            connection.close()


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


NETWORKS: dict[str, tuple[bytes | None, bool]] = {
    "silent": (None, False),
    "hangs up": (None, True),
    "garbage": (b"SSH-2.0-OpenSSH_9.6\r\n", True),
    "control codes": (b"HTTP/1.1 \x1b[31m\x07\r\n\r\n", True),
    "half an answer": (b"HTTP/1.1 200 OK\r\nContent-", False),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Let the hub be at an address, with an empty cache."""
    from huggingface_hub import constants
    from transformers.utils import hub as transformers_hub

    def at(address: str) -> None:
        hub._asked.clear()
        cache = str(tmp_path / "cache")
        for module in (constants, vars(transformers_hub)["constants"]):
            monkeypatch.setattr(module, "HF_HUB_CACHE", cache)
            monkeypatch.setattr(module, "ENDPOINT", address)
        monkeypatch.setattr(hub, "SECONDS", 0.3)

    yield at
    hub._asked.clear()


@pytest.mark.parametrize("network", [*NETWORKS, "nobody there", "no such name", "offline"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_id_that_cannot_be_asked_for_is_one_line(
    command: str,
    network: str,
    alone: Callable[[str], None],
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(*NETWORKS[network]) if network in NETWORKS else None
    address = {"no such name": "http://nobody.invalid"}.get(network, nobody())
    alone(server.address if server else address)
    if network == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    result = call(*COMMANDS[command])
    took = time.monotonic() - start
    if server:
        server.stop()
    one_line(result, ID, "not in the cache", "connect to the network, or give a local folder")
    assert took < LIMIT


def test_the_hub_is_asked_once(alone: Callable[[str], None], monkeypatch: Any) -> None:
    alone(nobody())
    asked: list[str] = []
    monkeypatch.setattr(hub, "_ask", lambda place: asked.append(place) or "no")
    assert [hub.unreachable() for _ in range(3)] == ["no"] * 3
    assert len(asked) == 1


def test_a_hub_that_answers_is_used(alone: Callable[[str], None]) -> None:
    server = Server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True)
    alone(server.address)
    assert hub.unreachable() == ""
    assert not hub.only_local(ID)
    server.stop()


REVISION = "0123456789abcdef0123456789abcdef01234567"


def cached(place: Path, files: dict[str, bytes]) -> Path:
    """A copy of a model in the hub's cache, as far as it came."""
    root = place / "cache" / f"models--{ID.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    folder = root / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (root / "blobs").mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (root / "blobs" / "abc.incomplete").write_bytes(b"half")
    return folder


def config_of(folders: dict[str, Path]) -> bytes:
    return (folders["llava"] / "config.json").read_bytes()


HALVES: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    "nothing yet": lambda config: {},
    "another file": lambda config: {"README.md": b"x"},
    "half a config": lambda config: {"config.json": config[: len(config) // 2]},
    "empty config": lambda config: {"config.json": b""},
    "config of zeros": lambda config: {"config.json": b"\0" * 100},
    "config alone": lambda config: {"config.json": config},
    "half the weights": lambda config: {
        "config.json": config, "model.safetensors": b"\x08\0\0\0\0\0\0\0{\"a\":"},
    "weights of zeros": lambda config: {
        "config.json": config, "model.safetensors": b"\0" * 4096},
    "empty weights": lambda config: {"config.json": config, "model.safetensors": b""},
    "index without shards": lambda config: {
        "config.json": config,
        "model.safetensors.index.json": json.dumps(
            {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
        ).encode()},
    "half an index": lambda config: {
        "config.json": config, "model.safetensors.index.json": b'{"weight_map": {'},
}  # fmt: skip


@pytest.mark.parametrize("half", HALVES)
def test_half_a_download_is_one_line(
    half: str, alone: Callable[[str], None], call: Call, folders: dict[str, Path], tmp_path: Path
) -> None:
    alone(nobody())
    cached(tmp_path, HALVES[half](config_of(folders)))
    start = time.monotonic()
    result = call("run", "--model", ID)
    one_line(result, ID)
    assert time.monotonic() - start < LIMIT


def test_a_whole_copy_needs_no_network(
    alone: Callable[[str], None], call: Call, folders: dict[str, Path], tmp_path: Path
) -> None:
    alone(nobody())
    folder = cached(tmp_path, {})
    for file in folders["llava"].iterdir():
        shutil.copy(file, folder / file.name)
    result = call("run", "--model", ID, "--repeats", "1", "--max-new-tokens", "1")
    assert result.code == 0, result.err
    assert ID.split("/")[1] in result.out or "overlay" in result.out


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_that_never_answers(variable: str, tmp_path: Path) -> None:
    """The whole program, with its imports."""
    server = Server(None, False)
    variables = {variable: server.address, "HF_HUB_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tokensieve", "run", "--model", ID],
        env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    took = time.monotonic() - start
    server.stop()
    assert done.returncode == 2
    assert done.stdout == ""
    clear(done.stderr)
    assert "does not answer within" in done.stderr
    assert took < LIMIT
