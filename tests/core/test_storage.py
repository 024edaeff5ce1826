"""Files that land whole or not at all."""

import json
import pickle

import pytest

from egoray.core.storage import Folder
from egoray.core.workfolder import FAILURES
from egoray.errors import ConfigError, FormatError


def test_what_is_written_is_read_and_nothing_else_is_there(tmp_path):
    folder = Folder(tmp_path) / "a" / "b"
    assert folder.names() == []
    folder.write_json("x.json", {"b": 1, "a": "é"})
    assert folder.read_json("x.json") == {"a": "é", "b": 1}
    assert folder.names() == ["x.json"]
    assert json.loads((tmp_path / "a" / "b" / "x.json").read_text()) == {"a": "é", "b": 1}
    assert pickle.loads(pickle.dumps(folder)).read_json("x.json")["b"] == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.write_bytes("x", b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match="cannot be written"):
        folder.write_bytes("x", b"new")
    assert folder.names() == ["x"]
    assert folder.read_bytes("x") == b"old"


def test_half_written_files_are_swept(tmp_path):
    (tmp_path / "x.parquet.1234.tmp").write_bytes(b"half")
    folder = Folder(tmp_path)
    assert folder.names(".parquet") == []
    folder.sweep()
    assert folder.names() == []


def test_the_same_rows_are_the_same_bytes_and_no_rows_keep_the_schema(tmp_path):
    folder = Folder(tmp_path)
    row = {"stage": "annotate", "unit": "u", "error": "E", "message": "m", "attempt": 1, "retryable": True}
    for name in ("a.parquet", "b.parquet"):
        folder.write_rows(name, [row], FAILURES)
    folder.write_rows("c.parquet", [], FAILURES)
    assert folder.read_bytes("a.parquet") == folder.read_bytes("b.parquet")
    assert list(folder.read_rows()) == [row, row]


@pytest.mark.parametrize(("name", "content"), [("x.json", b"{"), ("x.parquet", b"PAR1 no")])
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=name):
        Folder(tmp_path).read_json(name) if name.endswith("json") else list(Folder(tmp_path).read_rows())


def test_a_name_that_is_no_legal_unicode_is_refused_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"udcff.*choose another folder"):
        Folder(f"{tmp_path}/x\udcff")
