"""Where a uri may point: addresses in any spelling, a name that changes its address, redirects that lead inside."""

import socket

import pytest

from egoray.serve import sources
from egoray.serve.refusals import Refused

HOSTS = ("videos.test", "inside.test")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses_of_the_open_internet(address, public):
    assert sources.is_public(address) is public


def resolving(monkeypatch, *answers):
    """Name lookups give these addresses in turn; the sockets opened are noted, and none connects."""
    opened, left = [], list(answers)

    def connect(address, timeout=None):
        opened.append(address)
        raise ConnectionRefusedError

    found = lambda *args, **kwargs: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 443)) for a in left.pop(0)]  # noqa: E731
    monkeypatch.setattr(sources.socket, "getaddrinfo", found)
    monkeypatch.setattr(sources.socket, "create_connection", connect)
    return opened


def test_the_connection_goes_to_the_address_that_was_judged(monkeypatch, tmp_path):
    opened = resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    with pytest.raises(Refused, match="cannot be fetched"):
        sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "v"), 1000)
    assert opened == [("93.184.216.34", 443)]


def test_one_inner_address_among_several_is_enough_to_refuse(monkeypatch, tmp_path):
    opened = resolving(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(Refused) as refused:
        sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "v"), 1000)
    assert (refused.value.status, opened) == (403, [])


class Answers:
    """Stands for a connection; answers with the next of ``replies``: (status, headers, body)."""

    replies, hosts = [], []

    def __init__(self, host, port):
        Answers.hosts.append(host)
        if host == "inside.test":
            sources.public_addresses(host, port)

    def request(self, *args, **kwargs):
        pass

    def getresponse(self):
        self.status, self.headers, self.body = Answers.replies.pop(0)
        return self

    def read(self, size):
        data, self.body = self.body[:size], self.body[size:]
        return data

    def close(self):
        pass


@pytest.fixture
def replies(monkeypatch):
    Answers.replies, Answers.hosts = [], []
    monkeypatch.setattr(sources, "_PinnedConnection", Answers)
    return Answers.replies


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/",
        "https://169.254.169.254/",
        "//127.0.0.1/v",
        "file:///etc/passwd",
        "https://evil.test/v",
        "http://videos.test/v",
    ],
)
def test_a_redirect_is_judged_as_the_first_address_is(replies, tmp_path, location):
    replies.append((302, {"Location": location}, b""))
    with pytest.raises(Refused) as refused:
        sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "v"), 1000)
    assert (refused.value.status, Answers.hosts) == (403, ["videos.test"])


def test_a_redirect_to_a_listed_name_with_an_inner_address(replies, tmp_path, monkeypatch):
    replies.append((302, {"Location": "https://inside.test/v"}, b""))
    resolving(monkeypatch, ["10.0.0.5"])
    with pytest.raises(Refused) as refused:
        sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "v"), 1000)
    assert refused.value.status == 403


def test_a_video_is_fetched_up_to_the_cap(replies, tmp_path):
    replies += [
        (302, {"Location": "/other.mp4"}, b""),
        (200, {}, b"x" * 1000),
        (200, {}, b"x" * 1001),
        (200, {"Content-Length": "1001"}, b""),
    ]
    sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "v"), 1000)
    assert (tmp_path / "v").stat().st_size == 1000
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "w"), 1000)
        assert refused.value.status == 413
    replies += [(302, {"Location": "/again"}, b"")] * 4
    with pytest.raises(Refused, match="too many redirects"):
        sources.fetch_url("https://videos.test/v.mp4", HOSTS, str(tmp_path / "w"), 1000)
