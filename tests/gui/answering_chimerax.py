"""A server that answers as ChimeraX's documentation says of its REST interface. ChimeraX itself is not run."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Documented(BaseHTTPRequestHandler):
    """``GET /run?command=...`` -> JSON of "error" and "log messages", as ``rest start json true`` answers."""

    heard: list[str]

    def do_GET(self) -> None:
        address = urllib.parse.urlparse(self.path)
        command = urllib.parse.parse_qs(address.query)["command"][0]
        self.heard.append(command)
        refused = command.startswith(("close #", "nonsense"))
        error = {"type": "UserError", "message": f"Unknown command: {command}"} if refused else None
        answer = {"json values": [], "python values": [], "log messages": {"info": ["done"]}, "error": error}
        body = json.dumps(answer).encode()
        self.send_response(200 if address.path == "/run" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def answering() -> Iterator[tuple[int, list[str]]]:
    """Its port, and the commands that it has heard."""
    heard: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Documented,), {"heard": heard}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port, heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
