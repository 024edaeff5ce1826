"""The review's server in this process on a real socket, and a client that speaks to it as the page does."""

import http.client
import json
import threading
import time
import uuid
from contextlib import contextmanager

import uvicorn

from egoray.models.grabcut import GrabCut
from egoray.review.app import build_app
from egoray.review.frames import Frames
from egoray.review.retrack import Engine
from egoray.review.server import prepare


@contextmanager
def serving(annotations, *, alone="ann", port=0, **shares):
    """(review, port) of a server on loopback."""
    review = prepare(str(annotations), None, None, **{"double": 0.0, "plant": 0.0} | shares)
    frames = Frames()
    app = build_app(review.store, review.annotations, frames, Engine(GrabCut(), frames, takes_clicks=False), alone=alone)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield review, socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        socket.close()
        review.store.close()


class Client:
    """One tab of one reviewer; ``headers`` replace its own."""

    def __init__(self, port, token=None):
        self.port, self.tab, self.csrf = port, uuid.uuid4().hex, ""
        self.cookie = f"egoray_review={token}" if token else ""
        status, body = self.get("/api/session")
        if status == 200:
            self.csrf = body["csrf"]

    def send(self, method, path, body=None, headers=None):
        """(status, headers, bytes)"""
        given = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie} if self.cookie else {"Host": f"127.0.0.1:{self.port}"}
        data = None
        if method == "POST":
            given |= {"Content-Type": "application/json", "X-CSRF-Token": self.csrf, "Origin": f"http://127.0.0.1:{self.port}"}
            data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        given |= headers or {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, data, {k: v for k, v in given.items() if v is not None})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path, **headers):
        status, _, data = self.send("GET", path, headers=headers)
        return status, json.loads(data)

    def post(self, path, headers=None, **body):
        status, _, data = self.send("POST", path, body, headers)
        return status, json.loads(data)

    def next(self, keep=(), **filters):
        return self.post("/api/next", tab=self.tab, keep=list(keep), filters=filters)[1]["item"]

    def step(self, item, action, revision=0, headers=None, **body):
        return self.post(f"/api/items/{item}/{action}", headers, tab=self.tab, key=uuid.uuid4().hex, revision=revision, **body)
