"""A stand-in for the grounding service on real sockets: it serves a page's files, streams answers slowly and refuses on request.

It speaks HTTP by the standard library and imports nothing from egoray, so that it can contradict it.
"""

import json
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "mp4": "video/mp4"}


class GroundingServer:
    """Attributes that a test sets: answers (text → frame events, lists without text_index), pace_s between two frames of the clip, refuse
    ((status, headers, error) or None), token, breaks_after and fails_after (frames, or None), samples (name → (bytes, texts)).

    Attributes that a test reads: asked (a dict of fields a question, each a list; files as bytes), gone (set when a client went away).
    """

    def __init__(self, static, clip, answers):
        self.static, self.clip, self.answers = static, clip, answers
        self.samples, self.models, self.token = {}, [{"name": "nano", "summary": "Small and quick.", "ready": True}], None
        self.pace_s, self.refuse, self.breaks_after, self.fails_after = 0.0, None, None, None
        self.asked, self.gone = [], threading.Event()

    def __enter__(self):
        service = self
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": service}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def events(self, texts):
        """The answer, an event at a time, frame by frame for all texts."""
        yield {"event": "start", "model": "nano", "texts": texts, **self.clip}
        for index in range(self.clip["num_frames"]):
            time.sleep(self.pace_s)
            if index == self.fails_after:
                yield {"event": "error", "error": {"code": "out_of_memory", "message": "The model ran out of memory."}}
                return
            if index == self.breaks_after:
                return
            for k, text in enumerate(texts):
                if index in self.answers.get(text, {}):
                    yield {"event": "frame", "text_index": k, **self.answers[text][index]}
            yield {"event": "progress", "done": index + 1, "total": self.clip["num_frames"]}
        yield {"event": "done", "results": [self._summary(text) for text in texts], "timing_s": {"decode": 0.25, "model": 1.5}}

    def _summary(self, text):
        runs, step_s = [], 1 / self.clip["fps"]
        for index in sorted(self.answers.get(text, {})):
            if runs and index == runs[-1][1]:
                runs[-1][1] += 1
            else:
                runs.append([index, index + 1])
        return {"text": text, "appearances": [{"start_s": round(a * step_s, 4), "stop_s": round(b * step_s, 4)} for a, b in runs]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, service = self.path.split("?")[0], self.service
        if path == "/":
            self._file(service.static / "index.html")
        elif path.startswith("/static/") and "/" not in path[8:]:
            self._file(service.static / path[8:])
        elif path.startswith("/v1/") and not self._allowed():
            self._refuse(401, {}, {"code": "no_token", "message": "A bearer token is needed."})
        elif path == "/v1/models":
            self._json({"models": service.models, "default": "nano"})
        elif path == "/v1/samples":
            rows = [{"name": n, "url": f"/v1/samples/{k}.mp4", "texts": t} for k, (n, (_, t)) in enumerate(service.samples.items())]
            self._json({"samples": rows})
        elif path.startswith("/v1/samples/"):
            self._send(200, {"Content-Type": "video/mp4"}, [*service.samples.values()][int(path[12:-4])][0])
        else:
            self._refuse(404, {}, {"code": "not_found", "message": "There is no such page."})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        service = self.service
        if not self._allowed():
            self._refuse(401, {}, {"code": "no_token", "message": "A bearer token is needed."})
            return
        message = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        fields = {}
        for part in message.get_payload():
            name, data = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            fields.setdefault(name, []).append(data if part.get_filename() else data.decode())
        service.asked.append(fields)
        if service.refuse:
            self._refuse(*service.refuse)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in service.events(fields["text"]):
                line = json.dumps(event).encode() + b"\n"
                middle = len(line) // 2  # a line may arrive in two pieces
                for piece in (line[:middle], line[middle:]):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            service.gone.set()
            self.close_connection = True

    def _allowed(self):
        return self.service.token is None or self.headers.get("Authorization") == f"Bearer {self.service.token}"

    def _file(self, path):
        if path.is_file():
            self._send(200, {"Content-Type": TYPES[path.suffix[1:]]}, path.read_bytes())
        else:
            self._refuse(404, {}, {"code": "not_found", "message": "There is no such page."})

    def _json(self, data, status=200, headers=()):
        self._send(status, {"Content-Type": "application/json", **dict(headers)}, json.dumps(data).encode())

    def _refuse(self, status, headers, error):
        self._json({"error": error}, status, headers)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body), "Cache-Control": "no-store"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
