"""Runs are fetched from a stand-in of the Hub on loopback, which answers as the Hub does; what is no run is refused."""

import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from featcache.base.errors import BadInput, InvalidSettings, StorageError
from head.prediction.members import find_members
from head.runs.head_file import load_head
from head.runs.hub import Reference, fetch_run, reference_of, run_folder
from head.runs.run import read_run
from tests.helpers.hostile import Hostile
from tests.helpers.processes import run_forked

FIRST, SECOND = "a" * 40, "b" * 40


@dataclass
class StandIn:
    """Repositories {name: {revision: {file: bytes}}} with what goes wrong: refused {name: (status, code)}, cuts.

    cuts is how many answers to GET of a file break off in the middle; sizes replaces what is said of a file's size.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    cuts: int = 0
    cut_at: float = 0.5
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, repository: str, revision: str) -> str | None:
        """Return the commit that a branch or commit names, None if there is none."""
        commits = self.repositories[repository]
        return {"main": next(reversed(commits)), **{commit: commit for commit in commits}}.get(revision)


class Handler(BaseHTTPRequestHandler):
    """GET api/models/NAME/revision/REVISION, and HEAD and GET of NAME/resolve/REVISION/FILE."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        if "/me/" in path:  # huggingface_hub asks other things as well, once a process
            hub.asked.append(f"{self.command} {path}")
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = about or file
        if not found:
            return self.answer(404, b"")
        if found[1] in hub.refused:
            status, code = hub.refused[found[1]]
            return self.answer(status, b"", {"X-Error-Code": code} if code else {})
        commit = hub.commit(found[1], found[2])
        if commit is None:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = hub.repositories[found[1]][commit]
        if about:
            return self.about(found[1], commit, files)
        if found[3] not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        return self.file(files[found[3]], commit)

    def about(self, repository: str, commit: str, files: dict[str, bytes]) -> None:
        sizes = {name: self.server.hub.sizes.get(name, len(data)) for name, data in files.items()}
        siblings = [{"rfilename": name, "size": size, "blobId": "0" * 40} for name, size in sizes.items()]
        value = {"_id": "1", "id": repository, "sha": commit, "private": False, "siblings": siblings}
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def file(self, data: bytes, commit: str) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start = int((re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) or "00")[1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.answer(206 if start else 200, data[start:], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.hub.cuts and "/resolve/" in self.path:
            self.server.hub.cuts -= 1
            body, self.close_connection = body[: int(len(body) * self.server.hub.cut_at)], True
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: StandIn


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """An empty stand-in, which huggingface_hub takes for the Hub, and a cache of its own."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.hub = StandIn(url=f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        huggingface_hub.close_session()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", server.hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", server.hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        yield server.hub
        server.shutdown()
        huggingface_hub.close_session()


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that do not wait."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def files(tiny_runs: Path) -> dict[str, bytes]:
    """A run as it stands in a repository."""
    folder = tiny_runs / "tiny" / "paper" / "split-1"
    return {
        "README.md": b"# a card\n",
        **{name: (folder / name).read_bytes() for name in ("config.json", "head.safetensors")},
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_is_fetched_as_it_was_uploaded(hub: StandIn, files: dict[str, bytes]) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    folder = fetch_run("hf://me/runs")
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == files
    assert load_head(read_run(folder)).steps == 3


def test_it_is_fetched_once_and_found_without_a_network(hub: StandIn, files: dict[str, bytes]) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    folder = fetch_run("hf://me/runs")
    hub.asked.clear()
    assert fetch_run("hf://me/runs") == folder
    assert not [line for line in hub.asked if line.startswith("GET /me/runs")]
    constants.ENDPOINT = "http://127.0.0.1:9"  # where nobody listens; the fixture puts it back
    assert fetch_run("hf://me/runs") == folder


def test_a_revision_is_a_branch_or_a_commit(hub: StandIn, files: dict[str, bytes]) -> None:
    hub.repositories["me/runs"] = {FIRST: files, SECOND: {**files, "README.md": b"newer"}}
    assert (fetch_run(f"hf://me/runs@{FIRST}") / "README.md").read_bytes() == files["README.md"]
    assert (fetch_run("hf://me/runs") / "README.md").read_bytes() == b"newer"
    assert (fetch_run("hf://me/runs@main") / "README.md").read_bytes() == b"newer"


def test_neither_pickles_nor_code_nor_graphs_are_fetched(hub: StandIn, files: dict[str, bytes], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    others = ("checkpoint.pkl", "pytorch_model.bin", "head.pt", "model.onnx", "predict.py", "sub/x.safetensors")
    hub.repositories["me/runs"] = {FIRST: {**files, **dict.fromkeys(others, pickle.dumps(Hostile(canary)))}}
    folder = fetch_run("hf://me/runs")
    assert names_in(folder) == sorted(files)
    assert not [line for line in hub.asked if any(line.endswith(name) for name in others)]
    assert not canary.exists()


def test_a_backbone_beside_the_head_is_fetched(hub: StandIn, files: dict[str, bytes]) -> None:
    config = json.dumps({**json.loads(files["config.json"]), "weights_source": "backbone.safetensors"}).encode()
    hub.repositories["me/runs"] = {FIRST: {**files, "config.json": config, "backbone.safetensors": b"weights"}}
    assert (fetch_run("hf://me/runs") / "backbone.safetensors").read_bytes() == b"weights"


@pytest.fixture
def members(tiny_runs: Path) -> dict[str, bytes]:
    """A head of two members as it stands in a repository."""
    folder, found = tiny_runs / "tiny" / "paper", {"README.md": b"# a card\n", "backbone.safetensors": b"weights"}
    for name in ("split-1", "split-2"):
        config = {
            **json.loads((folder / name / "config.json").read_text()),
            "weights_source": "../backbone.safetensors",
        }
        found[f"{name}/config.json"] = json.dumps(config).encode()
        found[f"{name}/head.safetensors"] = (folder / name / "head.safetensors").read_bytes()
    return found


def test_members_are_fetched_with_what_they_share_and_nothing_else(hub: StandIn, members: dict[str, bytes]) -> None:
    others = ("model.onnx", "split-1/checkpoint", "split-1/x.safetensors", "other/a.json", ".git/config.json")
    hub.repositories["me/runs"] = {FIRST: {**members, **dict.fromkeys(others, b"...")}}
    folder = fetch_run("hf://me/runs")
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert {name: (folder / name).read_bytes() for name in paths} == members
    found = find_members(folder).runs
    assert [(run.split, Path(run.weights_source).read_bytes()) for run in found] == [
        ("1", b"weights"),
        ("2", b"weights"),
    ]
    constants.ENDPOINT = "http://127.0.0.1:9"
    assert fetch_run("hf://me/runs") == folder


def test_members_that_are_not_whole_are_refused(
    hub: StandIn, members: dict[str, bytes], no_pause: None, tmp_path: Path
) -> None:
    for name in ("split-2/head.safetensors", "split-2/config.json", "README.md"):
        hub.repositories["me/runs"] = {FIRST: {other: data for other, data in members.items() if other != name}}
        with pytest.raises(BadInput, match=f"hf://me/runs: no run of this program, it lacks {name}"):
            fetch_run("hf://me/runs")
    hub.repositories["me/runs"] = {
        FIRST: {name: data for name, data in members.items() if name != "backbone.safetensors"}
    }
    with pytest.raises(BadInput, match=r"weights are in \.\./backbone\.safetensors, which is not in the repository"):
        fetch_run("hf://me/runs")
    hub.repositories["me/cut"], hub.cuts, hub.cut_at = {FIRST: members}, 1000, 0.0
    with pytest.raises(BadInput, match="cannot be fetched"):
        fetch_run("hf://me/cut")
    constants.ENDPOINT = "http://127.0.0.1:9"
    with pytest.raises(BadInput, match="cannot be fetched"):
        fetch_run("hf://me/cut")


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(
    hub: StandIn, files: dict[str, bytes], no_pause: None
) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    hub.cuts = 2
    folder = fetch_run("hf://me/runs")
    assert hub.cuts == 0
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == files


def test_a_connection_that_is_always_cut_leaves_no_run(
    hub: StandIn, files: dict[str, bytes], no_pause: None, tmp_path: Path
) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    hub.cuts, hub.cut_at = 1000, 0.0
    with pytest.raises(BadInput, match="hf://me/runs: cannot be fetched: .*bring the folder by other means"):
        fetch_run("hf://me/runs")
    assert not list((tmp_path / "hub").rglob("config.json"))
    hub.cuts = 0
    assert load_head(read_run(fetch_run("hf://me/runs"))).steps == 3


def test_no_network_is_said(hub: StandIn) -> None:
    constants.ENDPOINT = "http://127.0.0.1:9"
    with pytest.raises(BadInput, match=r"cannot be fetched: .*Run the same command again with a network"):
        fetch_run("hf://me/runs")


@pytest.mark.parametrize("refused", [(404, "RepoNotFound"), (401, "RepoNotFound"), (404, ""), (401, "")])
def test_a_repository_that_is_not_there_is_named(hub: StandIn, refused: tuple[int, str]) -> None:
    hub.refused["me/gone"] = refused
    with pytest.raises(InvalidSettings, match="hf://me/gone: no such repository, or a private one"):
        fetch_run("hf://me/gone")


def test_a_revision_that_is_not_there_is_named(hub: StandIn, files: dict[str, bytes]) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    with pytest.raises(InvalidSettings, match="hf://me/runs@v9: the repository has no such revision"):
        fetch_run("hf://me/runs@v9")


def test_a_gated_repository_says_where_to_ask(hub: StandIn) -> None:
    hub.refused["me/runs"] = (403, "GatedRepo")
    with pytest.raises(BadInput, match="gated; ask for access at https://huggingface.co/me/runs"):
        fetch_run("hf://me/runs")


def test_what_the_hub_answers_otherwise_is_passed_on(hub: StandIn, no_pause: None) -> None:
    hub.refused["me/runs"] = (500, "")
    with pytest.raises(BadInput, match="cannot be fetched: .*500"):
        fetch_run("hf://me/runs")


def test_a_repository_of_another_program_is_refused_before_anything_is_fetched(
    hub: StandIn, files: dict[str, bytes]
) -> None:
    hub.repositories["me/bert"] = {FIRST: {"config.json": b"{}", "model.safetensors": b"..."}}
    with pytest.raises(BadInput, match=r"hf://me/bert: no run of this program, it lacks head\.safetensors"):
        fetch_run("hf://me/bert")
    assert len(hub.asked) == 1
    hub.repositories["me/other"] = {FIRST: {**files, "config.json": b'{"model_type": "bert"}'}}
    with pytest.raises(BadInput, match=r"hf://me/other: no run of this program, by its config\.json"):
        fetch_run("hf://me/other")


def test_files_of_unreasonable_size_are_listed_and_none_is_fetched(hub: StandIn, files: dict[str, bytes]) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    hub.sizes = {"head.safetensors": 5 << 30, "config.json": 17 << 20}
    with pytest.raises(BadInput) as caught:
        fetch_run("hf://me/runs")
    assert "head.safetensors: at most 4,294,967,296 bytes expected, found 5,368,709,120" in str(caught.value)
    assert "config.json: at most 16,777,216 bytes expected, found 17,825,792" in str(caught.value)
    assert len(hub.asked) == 1


@pytest.mark.parametrize("source", ["/home/someone/weights.pth", "../../weights.safetensors", "gone.safetensors"])
def test_a_backbone_outside_the_repository_is_refused(hub: StandIn, files: dict[str, bytes], source: str) -> None:
    config = json.dumps({**json.loads(files["config.json"]), "weights_source": source}).encode()
    hub.repositories["me/runs"] = {FIRST: {**files, "config.json": config}}
    with pytest.raises(
        BadInput, match=f"backbone's weights are in {re.escape(source)}, which is not in the repository"
    ):
        fetch_run("hf://me/runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_a_fault_of_storage(
    hub: StandIn, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    (tmp_path / "hub").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot be stored"):
        fetch_run("hf://me/runs")


def test_a_full_disk_is_a_fault_of_storage(
    hub: StandIn, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["me/runs"] = {FIRST: files}

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(StorageError, match="cannot be stored in huggingface_hub's cache: .*No space left"):
        fetch_run("hf://me/runs")


@pytest.mark.parametrize(
    "text", ["hf://", "hf://me", "hf://me/runs/more", "hf://me/runs@", "hf://me/ru ns", "hf:/me/runs"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="it is written hf://OWNER/NAME"):
        reference_of(text)


def test_a_reference_names_a_repository_and_a_revision(tmp_path: Path) -> None:
    assert reference_of("hf://me/my-runs.v2") == Reference("me/my-runs.v2", "main")
    assert reference_of("hf://me/runs@refs/pr/1") == Reference("me/runs", "refs/pr/1")
    assert run_folder(str(tmp_path)) == tmp_path


def test_a_name_that_the_hub_does_not_allow_is_said(hub: StandIn) -> None:
    with pytest.raises(InvalidSettings, match="hf://me/a--b: "):
        fetch_run("hf://me/a--b")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidSettings, match=r"pip install 'amnet-featcache\[hub\]'"):
        fetch_run("hf://me/runs")


def test_the_environment_of_huggingface_hub_counts_and_nothing_is_printed(
    hub: StandIn, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["me/runs"] = {FIRST: files}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    code = (
        "import sys; assert 'huggingface_hub' not in sys.modules\n"  # which reads it while it is imported
        "from head.runs.hub import fetch_run; print(fetch_run(sys.argv[1]))"
    )
    done = run_forked(code, "hf://me/runs", env={**os.environ, **own})
    assert (done.returncode, done.stderr) == (0, "")
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home")
    assert names_in(folder) == sorted(files)
    shutil.rmtree(tmp_path / "home")
