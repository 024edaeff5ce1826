"""A model hub on loopback with the few answers that a download needs; knows nothing of egoray."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


def entry(name, data):
    """A file of the tree: git's sum of it, and of a large one (.bin here) its SHA-256 too."""
    known = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    if name.endswith(".bin"):
        known["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 128}
    return known


@contextmanager
def serving(repository, files, revision="main", kind="models", damaged=None):
    """Yield (address, list of the paths fetched) of a hub with one repository at one revision; ``files`` maps names to bytes.

    ``kind`` is models or datasets; ``damaged[name]`` is how often that file arrives with a wrong byte.
    """
    fetched, damaged = [], damaged if damaged is not None else {}
    below = "/" if kind == "models" else f"/{kind}/"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = self.path.partition("?")[0]
            if path in {f"/api/{kind}/{repository}{at}" for at in ("", f"/revision/{revision}", f"/revision/{COMMIT}")}:
                known = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self.send(json.dumps(known).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith(f"/api/{kind}/{repository}/tree/"):
                tree = [entry(name, data) for name, data in files.items()]
                return self.send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            name = path.removeprefix(f"{below}{repository}/resolve/{COMMIT}/")
            if name not in files:
                return self.send(b"{}", {"X-Error-Code": "RepoNotFound"}, body, 404)
            if body:
                fetched.append(name)
            tag = hashlib.sha1(files[name]).hexdigest()
            data = files[name]
            if body and damaged.get(name, 0):
                damaged[name] -= 1
                data = bytes([data[0] ^ 1]) + data[1:]
            return self.send(data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, body)

        def send(self, data, headers, body, status=200):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(data)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
