"""A low limit of file descriptors: fewer connections, and no healthy server that is called dead."""

from __future__ import annotations

import subprocess
import sys

LOW = """
import os, resource, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from hapo_core.rollout.vllm.client import Client, NoDescriptors, room_for

class Well(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *args):
        pass

server = HTTPServer(("127.0.0.1", 0), Well)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Client(f"http://127.0.0.1:{server.server_port}")

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))
room = room_for(512)
assert 100 < room < 300 and resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300), room
assert room_for(20) == 20

taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for ask in (lambda: client.answers(5), lambda: client.get("/health", 5), lambda: room_for(1)):
    try:
        ask()
    except NoDescriptors as error:
        assert "ulimit -n" in str(error)
    else:
        raise AssertionError("it opened a connection, or called the server dead")
os.close(taken.pop()), os.close(taken.pop()), os.close(taken.pop())
assert client.answers(5)
"""


def test_the_limit_is_raised_kept_to_and_named() -> None:
    """Before: EMFILE was `ServerGone`, so every server was restarted and then lost."""
    done = subprocess.run([sys.executable, "-c", LOW], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
