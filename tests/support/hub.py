"""A model hub on loopback with the few answers that a download needs; knows nothing of egoray."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


@contextmanager
def serving(repository, files, revision="main"):
    """Yield (address, list of the paths fetched) of a hub with one repository at one revision; ``files`` maps names to bytes."""
    fetched = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = self.path.partition("?")[0]
            if path in (f"/api/models/{repository}/revision/{revision}", f"/api/models/{repository}/revision/{COMMIT}"):
                known = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self.send(json.dumps(known).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith(f"/api/models/{repository}/tree/"):
                tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
                return self.send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            name = path.removeprefix(f"/{repository}/resolve/{COMMIT}/")
            if name not in files:
                return self.send(b"{}", {"X-Error-Code": "RepoNotFound"}, body, 404)
            if body:
                fetched.append(name)
            tag = hashlib.sha1(files[name]).hexdigest()
            return self.send(files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, body)

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
