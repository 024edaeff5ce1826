"""The doctor: a sound machine passes, and each planted fault is found, with a remedy."""

import hashlib
import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from egoray import doctor
from egoray.cli import main


def check(found):
    """The one check, which has a remedy exactly where it is not well."""
    (found,) = found if isinstance(found, list) else [found]
    assert bool(found.remedy) == (found.level != "ok")
    return found


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10, 14), "fail"), ((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "fail"), ((4, 0), "fail")]
)
def test_python(version, level):
    assert check(doctor.check_python(version)).level == level


@pytest.mark.parametrize(("version", "level"), [("2.59.1", "fail"), ("2.60.0", "ok"), ("3.0.0rc1", "ok"), ("1.99", "fail")])
def test_ray(version, level):
    assert check(doctor.check_ray(version)).level == level


def test_an_old_torch_is_unsafe(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda package: "2.9.1+cu128")
    assert check(doctor.check_torch()).level == "fail"
    monkeypatch.setattr(doctor, "_installed", lambda package: None)
    assert check(doctor.check_torch()).found == "not installed"


def test_a_driver_whose_gpu_torch_does_not_see(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert [c.level for c in doctor.check_torch()] == ["ok", "fail"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert [c.level for c in doctor.check_torch()] == ["ok", "warn"]


def test_decoders():
    video, pictures = doctor.check_decoders()
    assert (video.level, pictures.level) == ("ok", "ok")
    assert all(title in video.found for title in doctor.DECODERS)
    lacking, _ = doctor.check_decoders({"H.264": ("h264",), "AV1": ("no_such_decoder",)})
    assert (lacking.level, "no AV1" in lacking.remedy) == ("warn", True)
    assert doctor.check_decoders({"H.264": ("libx264",)})[0].level == "fail", "an encoder decodes nothing"


@pytest.mark.parametrize(("free", "level"), [(5e8, "fail"), (5e9, "warn"), (5e11, "ok")])
def test_disk(tmp_path, free, level):
    found = check(doctor.check_disk(str(tmp_path / "not" / "there" / "yet"), int(free)))
    assert (found.level, str(tmp_path) in found.found) == (level, True)


def test_writing_leaves_nothing(tmp_path):
    found = doctor.check_writing(str(tmp_path / "out"), size_mb=2)
    assert found.level in ("ok", "warn"), found
    assert list(tmp_path.iterdir()) == []


def test_writing_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = check(doctor.check_writing(str(tmp_path / "file" / "out"), size_mb=1))
    assert (found.level, "\n" in found.found) == ("fail", False)


def test_the_token(tmp_path):
    kept = tmp_path / ".ray" / "auth_token"
    assert check(doctor.check_auth({"RAY_AUTH_MODE": "token"}, tmp_path)).level == "fail"
    assert check(doctor.check_auth({"RAY_AUTH_MODE": "disabled"}, tmp_path)).level == "warn"
    assert check(doctor.check_auth({}, tmp_path)).level == "warn"
    kept.parent.mkdir()
    kept.write_text("very-secret")
    kept.chmod(0o644)
    assert check(doctor.check_auth({"RAY_AUTH_MODE": "token"}, tmp_path)).remedy == f"chmod 600 {kept}"
    kept.chmod(0o600)
    found = check(doctor.check_auth({"RAY_AUTH_MODE": "token"}, tmp_path))
    assert (found.level, "very-secret" in found.found) == ("ok", False)
    found = check(doctor.check_auth({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "very-secret"}, tmp_path))
    assert (found.level, "very-secret" in found.found) == ("ok", False)
    missing = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "nowhere")}
    assert check(doctor.check_auth(missing, tmp_path)).level == "fail"


def test_ports():
    inside = [("127.0.0.1", 8265), ("::1", 8000), ("0.0.0.0", 22)]
    assert check(doctor.check_ports(inside)).level == "ok"
    found = check(doctor.check_ports([*inside, ("::", 10001), ("0.0.0.0", 8265)]))
    assert found.level == "warn"
    assert "on 0.0.0.0:8265" in found.found
    assert "on :::10001" in found.found
    assert check(doctor.check_ports(None)).level == "warn"


def test_a_listening_socket_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname() in set(doctor._listening())


@pytest.fixture
def cache(tmp_path):
    """A hub cache as huggingface_hub lays it out: blobs by hash, links to them in a snapshot."""
    content = b"weights"
    model = tmp_path / "models--owner--name"
    blob = model / "blobs" / hashlib.sha256(content).hexdigest()
    entry = model / "snapshots" / "abc" / "sub" / "model.safetensors"
    for path in (blob, entry):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    entry.symlink_to(blob)
    (model / "blobs" / ("0" * 40)).write_text("{}")
    (entry.parent / "config.json").symlink_to(model / "blobs" / ("0" * 40))
    return tmp_path, blob


def test_weights(cache):
    folder, blob = cache
    assert check(doctor.check_weights(folder)).found.endswith(f"sha256 {blob.name}")
    assert check(doctor.check_weights(folder, hashes=True)).found.endswith("checked")
    blob.write_bytes(b"w3ights")
    assert check(doctor.check_weights(folder)).level == "ok", "not read without being asked"
    assert check(doctor.check_weights(folder, hashes=True)).level == "fail"
    (blob.parent / "x.incomplete").touch()
    assert doctor.check_weights(folder)[0].level == "warn"
    blob.unlink()
    assert doctor.check_weights(folder)[-1].level == "fail"
    assert check(doctor.check_weights(folder / "nowhere")).level == "ok"


def test_memory():
    here = [{"name": "small", "memory_gb": 0.5}, {"name": "large", "memory_gb": 56.0}]
    assert [c.level for c in doctor.check_memory(here, free_gb=8)] == ["ok", "warn"]
    assert [c.level for c in doctor.check_memory(here, ["large:owner/name"], free_gb=8)] == ["ok", "fail"]
    assert [c.level for c in doctor.check_memory(here, ["small"], free_gb=60)] == ["ok", "ok"]


def doctored(*arguments):
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_cache", lambda: tmp_path / "none")
    done = doctored("--out", str(tmp_path / "out"), "--json")
    found = json.loads(done.stdout)
    assert found["level"] in ("ok", "warn"), found
    assert done.exit_code == 0
    names = [row["name"] for row in found["checks"]]
    assert names[:2] == ["python", "torch"]
    assert {"video decoders", "opencv", "disk", "writing", "ray", "ray token", "ports", "model nano"} <= set(names)
    assert not (tmp_path / "out").exists()


def test_a_failed_check_is_exit_1_and_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    done = doctored("--out", str(tmp_path / "file" / "out"))
    assert done.exit_code == 1
    assert "→ choose an --out that can be written" in done.stdout
    assert doctored("--model", "magic").exit_code == 2
    assert Path(tmp_path / "file").read_bytes() == b""
