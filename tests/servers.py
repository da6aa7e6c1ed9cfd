"""Servers of the tests on this machine: files over HTTP, in ranges or not."""

import json
import threading
from base64 import b64decode
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


@contextmanager
def serving(handler):
    """The URL at which a handler answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        """Send an answer; of HEAD without its body."""
        self.send_response(status)
        headers.setdefault("Content_Length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_file(self, body, **headers):
        """Send a file, or the range that is asked for: its (first, last) bytes."""
        wanted = self.headers.get("Range")
        if wanted is None:
            self.answer(200, body, Accept_Ranges="bytes", **headers)
            return 0, len(body) - 1
        first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        part = body[first : last + 1]
        bounds = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
        self.answer(206, part, Content_Range=bounds, **headers)
        return first, last


def files_over_http(files, ranges=True, status=200):
    """A handler that serves {path: bytes} and notes the (first, last) bytes that are asked for.

    Args:
        files: what is there.
        ranges: know ranges of bytes; else send whole files.
        status: instead of 200, of every answer.
    """

    class Files(Quiet):
        asked = []  # noqa: RUF012 (one list a server)

        def do_GET(self):
            if status != 200:
                return self.answer(status)
            if self.path not in files:
                return self.answer(404)
            if not ranges:
                return self.answer(200, files[self.path], Accept_Ranges="none")
            bounds = self.answer_file(files[self.path])
            if self.command == "GET":
                self.asked.append(bounds)

        do_HEAD = do_GET

    return Files


def fake_hub(repos, requests, status=None):
    """A handler that answers as the Hugging Face Hub does, as far as huggingface_hub asks.

    Args:
        repos: {owner/name: {revision: {file: bytes}}}; uploads change it.
        requests: (method, path, body) of each request are appended.
        status: of every answer, where it is set.
    """

    class Hub(Quiet):
        @property
        def base(self):
            return f"http://{self.headers['Host']}"

        def do_GET(self):
            requests.append((self.command, self.path, None))
            path = unquote(urlsplit(self.path).path)
            if status is not None:
                return self.answer(status)
            if path.startswith("/api/models/"):
                repo, _, rest = path.removeprefix("/api/models/").partition("/revision/")
                if "/tree/" in repo:
                    repo, _, rest = repo.partition("/tree/")
                return self.found(repo, rest or "main", self.listing)
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            return self.found(repo, revision, self.file, name)

        do_HEAD = do_GET

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(iter(self.chunk, b""))
            requests.append((self.command, self.path, body))
            if status is not None:
                return self.answer(status)
            parts = unquote(urlsplit(self.path).path).split("/")[3:]
            if parts == ["create"]:
                wanted = json.loads(body)
                repo = f"{wanted.get('organization') or 'anna'}/{wanted['name']}"
                repos.setdefault(repo, {"main": {}})
                return self.json({"url": f"{self.base}/{repo}", "id": repo})
            if parts == []:  # /api/validate-yaml
                front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
                wrong = [] if isinstance(front, dict) else [{"message": "no front matter"}]
                return self.json({"warnings": [], "errors": wrong})
            repo, what, revision = "/".join(parts[:2]), parts[2], parts[3]
            if what == "branch":
                repos[repo][revision] = dict(repos[repo]["main"])
                return self.json({})
            if what == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.json({"files": files})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = b64decode(line["value"]["content"])
                    repos[repo][revision][line["value"]["path"]] = content
            url = f"{self.base}/{repo}/commit/{'1' * 40}"
            return self.json({"commitUrl": url, "commitOid": "1" * 40})

        def chunk(self):
            content = self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
            return content

        def json(self, value):
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def found(self, repo, revision, answer, *arguments):
            """Answer for a revision, or for the commit of one; else 404 with the Hub's code."""
            known = repos.get(repo)
            if known is None:
                return self.answer(404, X_Error_Code="RepoNotFound")
            commits = {sha1(name.encode()).hexdigest(): name for name in known}
            revision = commits.get(revision, revision)
            if revision not in known:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            return answer(known[revision], sha1(revision.encode()).hexdigest(), *arguments)

        def listing(self, files, commit):
            if "/tree/" in self.path:
                entries = [
                    {"type": "file", "path": n, "size": len(c), "oid": sha1(c).hexdigest()}
                    for n, c in files.items()
                ]
                return self.json(entries)
            names = [{"rfilename": name} for name in files]
            return self.json({"id": "x", "sha": commit, "siblings": names})

        def file(self, files, commit, name):
            if name not in files:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            etag = f'"{sha1(files[name]).hexdigest()}"'
            self.answer_file(files[name], ETag=etag, X_Repo_Commit=commit)

    return Hub
