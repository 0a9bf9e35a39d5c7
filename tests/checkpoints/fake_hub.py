# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's hub without the network: its cache as huggingface_hub lays it out, and a server of
the few routes that huggingface_hub 2.4 calls to download a repository."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

Files = dict[str, bytes]


def commit_of(word: str) -> str:
    """A commit's 40 digits."""
    return hashlib.sha1(word.encode()).hexdigest()


def files_in(folder: Path) -> Files:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def cache(home: Path, name: str, files: Files, *, commit: str, ref: str = "main") -> Path:
    """A repository in the cache `home`, as a download leaves it; returns its snapshot."""
    repository = home / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for path, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(blob)
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / ref).write_text(commit)
    return snapshot


class FakeHub:
    """Repositories by name, each with the files of its commits and what its branches are at;
    `gated` names need a licence, `broken` ones answer with that status. `asked` lists requests."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.broken: dict[str, int] = {}
        self.bad_token = False
        self.asked: list[str] = []

    def put(self, name: str, files: Files, *, branch: str = "main") -> str:
        """A new commit of a repository, at which the branch then is."""
        commit = commit_of(f"{name} {branch} {len(self.commits.get(name, ()))}")
        self.commits.setdefault(name, {})[commit] = files
        self.branches.setdefault(name, {})[branch] = commit
        return commit

    def downloads(self) -> list[str]:
        """The files that were sent."""
        return [path.split("/", 5)[-1] for path in self.asked if path.startswith("GET /")
                and "/resolve/" in path]  # fmt: skip

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Its address."""
        handler = type("Handler", (_Handler,), {"hub": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer(self.command)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, method: str) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{method} {unquote(path)}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        owner, repository, *tail = parts[2:] if is_api else parts
        name = f"{owner}/{repository}"
        if self.hub.bad_token and "Authorization" in self.headers:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if name in self.hub.broken:
            return self._refuse(self.hub.broken[name], "", "")
        if name not in self.hub.commits:
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        if name in self.hub.gated and (not is_api or "tree" in tail):
            return self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo", "")
        revision = tail[1] if tail else "main"
        commit = self.hub.branches[name].get(revision, revision)
        if commit not in self.hub.commits[name]:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = self.hub.commits[name][commit]
        if not is_api:  # NAME/resolve/REVISION/FILE
            return self._send_file(method, commit, files.get("/".join(tail[2:])))
        if "tree" in tail:
            content: object = [
                {"type": "file", "path": path, "size": len(data), "oid": _sha1(data)}
                for path, data in files.items()
            ]
        else:
            content = {"id": name, "sha": commit, "siblings": []}
        return self._send(200, json.dumps(content).encode(), {})

    def _send_file(self, method: str, commit: str, data: bytes | None) -> None:
        if data is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{_sha1(data)}"'})

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        self._send(status, b"{}", headers | ({"X-Error-Message": message} if message else {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def use_cache(monkeypatch: pytest.MonkeyPatch, home: Path, *, offline: bool) -> None:
    """Have huggingface_hub, which read the environment when it was imported, use another cache, no
    token, and perhaps no network."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)


def use_server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextlib.contextmanager
def fake_hub(home: Path) -> Iterator[FakeHub]:
    """A hub that huggingface_hub talks to in this process, with an empty cache."""
    hub = FakeHub()
    with pytest.MonkeyPatch.context() as monkeypatch, hub.serving() as url:
        use_cache(monkeypatch, home, offline=False)
        use_server(monkeypatch, url)
        try:
            yield hub
        finally:
            close_session()
