"""A small Hub on this machine, for tests of pushing and pulling: standard library, everything in memory, loopback only.

Notable:
- It answers those requests by which huggingface_hub creates, lists, uploads (large files by LFS) and downloads models, data sets and
  Spaces, on branches and in pull requests. Any other request is noted in `unknown` and answered with 404.
- A commit is one step: large files that were uploaded before it are in no repository yet.
- `cut_uploads` and `cut_downloads` are numbers of large files in whose middle it hangs up. `received` counts uploads, `ranges` lists the
  Range headers of downloads.
- It has no Xet: a client needs HF_HUB_DISABLE_XET=1, and HF_ENDPOINT before huggingface_hub is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

WRITER, READER = "hf_writer", "hf_reader"  # tokens it knows; both are of the user "tester"
LARGE = (".safetensors", ".parquet", ".tar", ".bin")  # kept by LFS, as a real repository's .gitattributes says
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repo:
    """branches: name -> its commits, the newest last. A commit is (sha, title, path -> bytes)."""

    private: bool = False
    branches: dict[str, list[tuple[str, str, dict[str, bytes]]]] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, bytes]) -> str:
        commits = self.branches.setdefault(branch, [])
        listing = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())
        parent = commits[-1][0] if commits else ""
        sha = hashlib.sha1(repr((parent, len(commits), title, listing)).encode()).hexdigest()
        commits.append((sha, title, files))
        return sha

    def at(self, revision: str) -> tuple[str, str, dict[str, bytes]] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c[0] == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        """What is on main."""
        return self.branches["main"][-1][2]


class Hub(ThreadingHTTPServer):
    """Runs from `Hub()` to `close()`; `url` is its HF_ENDPOINT."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}  # LFS: SHA-256 -> bytes
        self.unknown: list[str] = []
        self.received: Counter[str] = Counter()  # SHA-256 -> how often its bytes came
        self.ranges: list[str] = []  # Range headers of downloads
        self.cut_uploads = self.cut_downloads = 0
        self.fail_commits = 0  # answers 503
        self.lose_answers = self.garble_answers = 0  # of commits that were made
        self.odd_tree: object = None  # an answer in the place of a list of files
        self.odd_urls = 0  # commits that are answered with the address of another host
        self.lose_trees, self.trees = (
            False,
            0,
        )  # looks at repositories with more than the first commit, that were refused
        self.faults: dict[
            str, int | str
        ] = {}  # a file's name -> the status it is answered with, "silent" or "bare" (no ETag)
        self.ignored: tuple[str, ...] = ()  # ends of names, as of a .gitignore
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.repos[kind, repo_id]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    # ---------------------------------------------------------------- answers

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if status in (200, 206) and "ETag" in (headers or {}) and len(data) > 1000 and self.server.cut_downloads:
            self.server.cut_downloads -= 1
            self.wfile.write(data[: len(data) // 2])
            return self.hang_up()
        self.wfile.write(data)
        return None

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.answer(
            status, {"error": message}, {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        )

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def body(self) -> bytes:
        if length := int(self.headers.get("Content-Length") or 0):
            return self.rfile.read(length)
        data = b""
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return data

    # ---------------------------------------------------------------- requests

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.route("GET", b"")

    def do_POST(self) -> None:
        self.route("POST", self.body())

    def do_PUT(self) -> None:
        """The bytes of a large file, at /large/SHA256."""
        oid = self.path.rpartition("/")[2]
        if self.server.cut_uploads:
            self.server.cut_uploads -= 1
            self.rfile.read(int(self.headers.get("Content-Length") or 2000) // 2)
            return self.hang_up()
        data = self.body()
        self.server.received[oid] += 1
        if hashlib.sha256(data).hexdigest() != oid:
            return self.refuse(400, "these bytes have another digest")
        self.server.large[oid] = data
        return self.answer(200)

    def route(self, method: str, body: bytes) -> None:
        url = urlparse(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", WRITER, READER):
            return self.refuse(401, "Invalid credentials in Authorization header")
        self.token = token
        path = unquote(url.path)
        if (method, path) == ("GET", "/api/whoami-v2"):
            return self.whoami()
        if (method, path) == ("POST", "/api/repos/create"):
            return self.create(json.loads(body))
        if (method, path) == ("POST", "/api/validate-yaml"):
            if b"sdk: abacus" in body or b"license: nobodys" in body:
                return self.answer(400, {"errors": [{"message": "metadata that no card may have"}], "warnings": []})
            return self.answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.within(found[1] or "model", found[2], lambda repo: self.batch(json.loads(body)), writes=True)
        if found := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path):
            kind, repo_id, verb, rest = found.groups()
            call = {
                ("GET", None): lambda repo: self.info(repo, repo_id, "main"),
                ("GET", "revision"): lambda repo: self.info(repo, repo_id, rest),
                ("GET", "tree"): lambda repo: self.tree(repo, rest),
                ("GET", "commits"): lambda repo: self.commits(repo, rest),
                ("GET", "refs"): lambda repo: self.refs(repo),
                ("POST", "paths-info"): lambda repo: self.paths(repo, rest, body),
                ("POST", "preupload"): lambda repo: self.preupload(json.loads(body)),
                ("POST", "branch"): lambda repo: self.branch(repo, rest, json.loads(body)),
                ("POST", "commit"): lambda repo: self.commit(repo, repo_id, rest, body),
            }.get((method, verb))
            if call is not None:
                return self.within(kind, repo_id, call, writes=method == "POST" and verb != "paths-info")
        if found := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            return self.within(found[1] or "model", found[2], lambda repo: self.download(repo, found[3], found[4]))
        self.server.unknown.append(f"{method} {path}")
        return self.refuse(404, "unknown address")

    def within(self, kind: str, repo_id: str, call: Any, writes: bool = False) -> None:
        repo = self.server.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self.token):
            return self.refuse(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if writes and self.token != WRITER:
            return self.refuse(403, "you may not write to this repository")
        return call(repo)

    def whoami(self) -> None:
        if not self.token:
            return self.refuse(401, "Invalid username or password.")
        role = "write" if self.token == WRITER else "read"
        return self.answer(200, {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create(self, wanted: dict[str, Any]) -> None:
        kind, repo_id = wanted.get("type") or "model", f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if self.token != WRITER or not repo_id.startswith("tester/"):
            return self.refuse(403, f"you may not create {repo_id}")
        url = f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in self.server.repos:
            return self.answer(409, {"error": "You already created this repo", "url": url})
        repo = self.server.repos[kind, repo_id] = Repo(private=wanted.get("visibility") == "private")
        files = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if kind == "space":  # as the real one does
            files["README.md"] = f"---\nsdk: {wanted['sdk']}\n---\n".encode()
        repo.commit("main", "initial commit", files)
        return self.answer(200, {"url": url, "name": repo_id, "id": "0"})

    # ---------------------------------------------------------------- one repository

    def info(self, repo: Repo, repo_id: str, revision: str) -> None:
        if (commit := self.look(repo, revision)) is None:
            return
        names = {"id": repo_id, "modelId": repo_id, "_id": "0", "author": repo_id.partition("/")[0]}
        flags = {"private": repo.private, "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}
        siblings = [{"rfilename": path} for path in sorted(commit[2])]
        self.answer(200, {**names, **flags, "sha": commit[0], "lastModified": DATE, "siblings": siblings})

    def tree(self, repo: Repo, rest: str) -> None:
        if self.server.lose_trees and len(repo.branches["main"]) > 1:
            self.server.trees += 1
            return self.refuse(403, "no look at this")
        if self.server.odd_tree is not None:
            return self.answer(200, self.server.odd_tree)
        revision, folder = split(repo, rest)
        if (commit := self.look(repo, revision)) is None:
            return None
        base = f"{folder}/" if folder else ""
        deep = self.query.get("recursive", "").lower() in ("true", "1")
        entries, folders = [], set()
        for path, data in sorted(commit[2].items()):
            if path.startswith(base):
                parents = path.removeprefix(base).split("/")[:-1]
                folders |= {
                    base + "/".join(parents[: k + 1]) for k in range(len(parents) if deep else min(1, len(parents)))
                }
                if deep or not parents:
                    entries.append(entry(path, data))
        made = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        if folder and not entries and not made:
            return self.refuse(404, "no such folder", "EntryNotFound")
        return self.answer(200, made + entries)

    def commits(self, repo: Repo, revision: str) -> None:
        if self.look(repo, revision) is not None:
            commits = repo.branches.get(revision, [])
            self.answer(
                200,
                [
                    {"id": c[0], "title": c[1], "message": "", "authors": [{"user": "tester"}], "date": DATE}
                    for c in reversed(commits)
                ],
            )

    def refs(self, repo: Repo) -> None:
        branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c[-1][0]} for b, c in repo.branches.items()]
        self.answer(200, {"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    def paths(self, repo: Repo, revision: str, body: bytes) -> None:
        if (commit := self.look(repo, revision)) is not None:
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            self.answer(200, [entry(path, commit[2][path]) for path in wanted if path in commit[2]])

    def preupload(self, wanted: dict[str, Any]) -> None:
        modes = [("lfs" if file["path"].endswith(LARGE) else "regular", file["path"]) for file in wanted["files"]]
        self.answer(
            200,
            {
                "files": [
                    {"path": p, "uploadMode": mode, "shouldIgnore": p.endswith(self.server.ignored), "oid": None}
                    for mode, p in modes
                ]
            },
        )

    def batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for item in wanted["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/large/{item['oid']}", "header": {}}}
            here = item["oid"] in self.server.large
            objects.append({"oid": item["oid"], "size": item["size"], **({} if here else {"actions": upload})})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def branch(self, repo: Repo, name: str, wanted: dict[str, Any]) -> None:
        if name in repo.branches:
            return self.refuse(409, "branch exists")
        start = wanted.get("startingPoint") or "main"
        repo.branches[name] = list(repo.branches[start])
        return self.answer(200)

    def commit(self, repo: Repo, repo_id: str, branch: str, body: bytes) -> None:
        if self.server.fail_commits:
            self.server.fail_commits -= 1
            return self.refuse(503, "out of order")
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if branch not in repo.branches:
            return self.refuse(404, "no such branch", "RevisionNotFound")
        sha, _, before = repo.branches[branch][-1]
        if header.get("parentCommit") not in (None, sha):
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        files = dict(before)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        url = None
        if self.query.get("create_pr"):
            branch = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repo.branches) + 1}"
            repo.branches[branch] = list(repo.branches["main"])
            url = f"{self.server.url}/{repo_id}/discussions/{branch.rpartition('/')[2]}"
        sha = repo.commit(branch, header["summary"], files)
        if self.server.lose_answers:
            self.server.lose_answers -= 1
            self.close_connection = True
            return None
        if self.server.garble_answers:
            self.server.garble_answers -= 1
            return self.answer(200, b'{"success": tr', {"Content-Type": "application/json"})
        if self.server.odd_urls:
            self.server.odd_urls -= 1
            return self.answer(
                200, {"success": True, "commitUrl": "http://elsewhere/x", "commitOid": sha, "pullRequestUrl": None}
            )
        return self.answer(
            200,
            {
                "success": True,
                "commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}",
                "commitOid": sha,
                "pullRequestUrl": url,
            },
        )

    def download(self, repo: Repo, revision: str, path: str) -> None:
        if (commit := self.look(repo, revision)) is None:
            return None
        named = {"X-Repo-Commit": commit[0]}
        if self.server.faults.get(path) == 404:  # of a mirror, without a word of what is missing
            return self.answer(404)
        if path not in commit[2]:
            return self.answer(404, {}, {**named, "X-Error-Code": "EntryNotFound"})
        if (fault := self.server.faults.get(path)) is not None:
            return self.hang_up() if fault == "silent" else self.answer(200 if fault == "bare" else int(fault))
        data = commit[2][path]
        digest = hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else git_digest(data)
        headers = {**named, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.answer(200, data, headers)
        self.server.ranges.append(asked[0])
        first, last = int(asked[1]), int(asked[2]) if asked[2] else len(data) - 1
        return self.answer(
            206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
        )

    def look(self, repo: Repo, revision: str) -> tuple[str, str, dict[str, bytes]] | None:
        commit = repo.at(revision)
        if commit is None:
            self.refuse(404, "no such revision", "RevisionNotFound")
        return commit


def split(repo: Repo, rest: str) -> tuple[str, str]:
    """ "refs/pr/1/folder" -> ("refs/pr/1", "folder")."""
    for name in sorted(repo.branches, key=len, reverse=True):
        if rest == name or rest.startswith(f"{name}/"):
            return name, rest[len(name) + 1 :]
    return rest.partition("/")[0], rest.partition("/")[2]


def entry(path: str, data: bytes) -> dict[str, Any]:
    large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    known = {"lfs": large} if path.endswith(LARGE) else {}
    return {"type": "file", "path": path, "size": len(data), "oid": git_digest(data), **known}


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
