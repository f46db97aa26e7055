"""A stand-in for the W&B server: speaks as much of its protocol as the client asks for, and keeps what it is sent."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """On a free port of this machine.

    Attributes:
        runs: by W&B run id, then by file (``wandb-history.jsonl``, ``wandb-summary.json``): line number -> line.
        files: names of the uploaded files.
        config: by W&B run id, as last sent.
        refuse: answer 401 to everything, as to a key that does not exist.
    """

    daemon_threads = True

    def __init__(self, refuse: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuse = refuse
        self.runs: dict[str, dict[str, dict[int, str]]] = {}
        self.files: list[str] = []
        self.config: dict[str, str] = {}
        self.requests: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """The run's rows, in the order that the server has them in."""
        lines = self.runs.get(run_id, {}).get("wandb-history.jsonl", {})
        return [json.loads(lines[number]) for number in sorted(lines)]

    def summary(self, run_id: str) -> dict[str, Any]:
        lines = self.runs.get(run_id, {}).get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}


@contextmanager
def server(refuse: bool = False) -> Iterator[Server]:
    running = Server(refuse)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield running
    finally:
        running.stop()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.refuse:
            return self._answer({"errors": [{"message": "user is not logged in"}]}, 401)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            request = json.loads(body)
            answer = {"data": self._graphql(request["query"], request.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self._file_stream(self.path.split("/")[-2], json.loads(body))
        elif self.path.startswith("/upload/"):
            self.server.files.append(self.path.removeprefix("/upload/"))
        self._answer(answer)

    do_GET = do_PUT = do_POST

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file_stream(self, run_id: str, request: dict[str, Any]) -> None:
        for name, chunk in (request.get("files") or {}).items():
            lines = self.server.runs.setdefault(run_id, {}).setdefault(name, {})
            lines.update(enumerate(chunk.get("content") or [], chunk.get("offset", 0)))

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "query Viewer" in query:
            viewer = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}}
        if "RunResumeStatus" in query:
            return {"model": _project(given) | {"bucket": self._bucket(given["name"])}}
        if "upsertBucket" in query:
            name = given.get("name") or given.get("id")
            inserted = name not in self.server.config
            self.server.config[name] = given.get("config") or self.server.config.get(name, "{}")
            count = len(self.server.runs.get(name, {}).get("wandb-history.jsonl", {}))
            bucket = {"id": name, "name": name, "displayName": given.get("displayName") or name, "description": "",
                      "config": self.server.config[name], "sweepName": None, "project": _project(given),
                      "historyLineCount": count}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if "createRunFiles" in query:
            files = [{"name": one, "uploadUrl": f"{self.server.url}/upload/{one}"} for one in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if "query ArtifactType(" in query:
            return {"project": {"artifact": None}}
        if "createArtifact(" in query:  # as one that it has already, so that the client sends no more of it
            one = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
            return {"createArtifact": {"artifact": one}}
        return {}

    def _bucket(self, name: str) -> dict[str, Any] | None:
        """What the client needs to go on with a run."""
        if name not in self.server.config:
            return None
        history = self.server.history(name)
        counts = {
            f"{key}LineCount": len(self.server.runs.get(name, {}).get(file, {}))
            for key, file in (
                ("log", "output.log"),
                ("history", "wandb-history.jsonl"),
                ("events", "wandb-events.jsonl"),
            )
        }
        tail = json.dumps([json.dumps(history[-1])] if history else [])
        return {"id": name, "name": name, "summaryMetrics": json.dumps(self.server.summary(name)), "displayName": name,
                "historyTail": tail, "eventsTail": "[]", "config": self.server.config[name], "tags": [], "notes": None,
                "wandbConfig": json.dumps({"t": 1}), **counts}  # fmt: skip


def _project(given: dict[str, Any]) -> dict[str, Any]:
    return {"id": "p", "name": given.get("project") or "p", "entity": {"id": "e", "name": "me"}}
