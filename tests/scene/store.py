"""Script that test_remote runs: a server of objects.

It imports the standard library only, so that each test may start its own: GDAL keeps what it has read by address.
"""

from __future__ import annotations

import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Store(BaseHTTPRequestHandler):
    """Objects by name, with ranges, as web servers and S3 give them; `/-/` is for the test that controls it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a reply's body would wait 40 ms for the acknowledgement of its header
    objects: dict[str, bytes] = {}  # noqa: RUF012
    parts: dict[int, bytes] = {}  # noqa: RUF012
    log: list[list[str]] = []  # noqa: RUF012
    moods: dict[str, int] = {}  # noqa: RUF012

    def log_message(self, *_):
        pass

    def reply(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        name = self.path.split("?")[0]
        if name == "/-/log":
            return self.reply(200, json.dumps(self.log).encode())
        self.log.append([self.command, name, self.headers.get("Range") or ""])
        if self.moods.get("hang") and len(self.log) > self.moods["hang"]:
            return time.sleep(60)
        if self.moods.get("failures"):
            self.moods["failures"] -= 1
            return self.reply(500)
        if name not in self.objects:
            return self.reply(404)
        data = self.objects[name]
        asked = len(self.log)
        if asked > self.moods.get("forbidden_after", asked):
            return self.reply(403)
        if asked > self.moods.get("page_after", asked):
            return self.reply(200, b"<!DOCTYPE html><p>Log in", Content_Type="text/html")
        if asked > self.moods.get("cut_after", asked) and self.command == "GET":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-99999/{len(data)}")
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(data[:1000])
            self.close_connection = True
            return None
        if "Range" not in self.headers or self.moods.get("no_ranges"):
            return self.reply(200, data, Accept_Ranges="bytes")
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        part = data[int(first) : int(last) + 1]
        if not part:
            return self.reply(416)
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self.reply(206, part, Accept_Ranges="bytes", Content_Range=span)

    do_HEAD = do_GET

    def do_PUT(self):
        body = self.body()
        name = self.path.split("?")[0]
        if name == "/-/moods":
            Store.moods = json.loads(body)
            self.log.clear()
            return self.reply(200)
        self.log.append([self.command, self.path, str(len(body))])
        if self.moods.get("refuse"):
            return self.reply(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        part = re.search(r"partNumber=(\d+)", self.path)
        if part:
            self.parts[int(part[1])] = body
        else:
            self.objects[name] = body
        return self.reply(200, ETag='"1"')

    def do_POST(self):
        """Begin an object of parts, or put it together."""
        self.log.append([self.command, self.path, str(len(self.body()))])
        name = self.path.split("?")[0]
        if "uploadId=" not in self.path:
            self.parts.clear()
            return self.reply(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        if self.moods.get("refuse_end"):
            return self.reply(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        self.objects[name] = b"".join(self.parts[k] for k in sorted(self.parts))
        return self.reply(200, b"<CompleteMultipartUploadResult/>")

    def do_DELETE(self):
        """Give up an object of parts."""
        self.log.append([self.command, self.path, ""])
        self.reply(204)

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as listener:
        listener.daemon_threads = True
        print(listener.server_port, flush=True)
        listener.serve_forever()
