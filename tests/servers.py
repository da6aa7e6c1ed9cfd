"""Servers of the tests on this machine: files over HTTP, in ranges or not."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
            body = files[self.path]
            wanted = self.headers.get("Range")
            if wanted is None or not ranges:
                return self.answer(200, body, Accept_Ranges="bytes" if ranges else "none")
            first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
            self.asked.append((first, last))
            part = body[first : last + 1]
            bounds = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
            return self.answer(206, part, Content_Range=bounds)

        do_HEAD = do_GET

    return Files
