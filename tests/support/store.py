"""An object store on loopback: a real S3 server, behind a door that can be told to turn requests away."""

import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


class Door(ThreadingHTTPServer):
    """Passes signed requests on to ``behind``; each of the first ``refusals`` is answered by 503, and ``ranges`` counts partial reads."""

    daemon_threads = True

    def __init__(self, behind):
        super().__init__(("127.0.0.1", 0), _Pass)
        self.behind, self.refusals, self.refused, self.ranges, self.sent = behind, 0, 0, 0, 0
        self.lock = threading.Lock()


class _Pass(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _any(self):
        body = self._body()
        with self.server.lock:
            turn_away = self.server.refusals > 0
            self.server.refusals -= turn_away
            self.server.refused += turn_away
            self.server.ranges += "Range" in self.headers
        if "Authorization" not in self.headers:
            return self._answer(403, {"Content-Type": "application/xml"}, DENIED)
        if turn_away:
            return self._answer(503, {"Content-Type": "application/xml"}, BUSY)
        request = urllib.request.Request(f"{self.server.behind}{self.path}", data=body, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "expect"):
                request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return self._answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return self._answer(error.code, dict(error.headers), error.read())

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0))) or None

    def _answer(self, status, headers, body):
        self.server.sent += len(body)
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any


@contextmanager
def s3():
    """(environment for clients, the door); the bucket is ``clips``."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    door = Door(f"http://{host}:{port}")
    threading.Thread(target=door.serve_forever, daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
    boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    ).create_bucket(Bucket="clips")
    try:
        yield keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{door.server_address[1]}"}, door
    finally:
        door.shutdown()
        door.server_close()
        server.stop()
