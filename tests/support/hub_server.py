"""A small server that speaks enough of the hub's protocol to serve one dataset."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/small"
GATED = "someone/gated"


def rows() -> list[dict[str, str]]:
    """The dataset: GSM8K's two columns."""
    return [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(5)]


DATA = "".join(json.dumps(row) + "\n" for row in rows()).encode()
BLOB = hashlib.sha1(DATA).hexdigest()
FILE = {"type": "file", "path": "train.jsonl", "size": len(DATA), "oid": BLOB}


class Handler(BaseHTTPRequestHandler):
    """Dataset info, file listing, and the file itself; 404s carry the hub's error codes."""

    def log_message(self, *args: object) -> None:
        """Silence."""

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        known = (f"/api/datasets/{NAME}", f"/api/datasets/{NAME}/revision/{COMMIT}")
        if GATED in path:
            self._send(403, b"{}", X_Error_Code="GatedRepo")
        elif NAME not in path:
            self._send(404, b"{}", X_Error_Code="RepoNotFound")
        elif path.rstrip("/") in known:
            self._json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}]})
        elif "/revision/" in path and COMMIT not in path:
            self._send(404, b"{}", X_Error_Code="RevisionNotFound")
        elif "/tree/" in path or "/paths-info/" in path:
            length = int(self.headers.get("Content-Length") or 0)
            asked = self.rfile.read(length).decode()
            self._json([FILE] if not asked or "train.jsonl" in asked else [])
        elif path.endswith("/train.jsonl"):
            start, end = self._range()
            part = DATA[start : end + 1]
            extra = {"Content_Range": f"bytes {start}-{end}/{len(DATA)}"}
            ranged = "Range" in self.headers
            headers = {"ETag": f'"{BLOB}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            self._send(206 if ranged else 200, part, **headers, **(extra if ranged else {}))
        else:
            self._send(404, b"{}", X_Error_Code="EntryNotFound")

    def _range(self) -> tuple[int, int]:
        given = self.headers.get("Range")
        if not given:
            return 0, len(DATA) - 1
        first, _, last = given.removeprefix("bytes=").partition("-")
        return int(first), min(int(last or len(DATA) - 1), len(DATA) - 1)

    do_GET = do_HEAD = do_POST = _answer


@contextmanager
def serve() -> Iterator[str]:
    """The address of a running server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
