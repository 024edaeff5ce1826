"""Files that appear whole or not at all, on a local path or an object store (s3://, gs://), through pyarrow.fs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from egoray.core import paths
from egoray.errors import ConfigError, FormatError

_SPOOL_BYTES = 64 * 2**20  # held in memory before a file for a store is written to the local disk first


class Folder:
    """A folder of results; every write lands complete under its final name, or does not land.

    Local files are written beside their final name and renamed; an object store gets one PUT.

    Raises:
        ConfigError: if the location cannot be reached or written (missing credentials, read-only, full disk).
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(uri)
        try:
            self.uri.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{self.uri!a}: not a name that can be written down; choose another folder") from error
        self._fs, self._root = paths.resolve(self.uri)

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return (Folder, (self.uri,))

    def __truediv__(self, name: str) -> Folder:
        return Folder(paths.join(self.uri.rstrip("/"), name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def names(self, suffix: str = "") -> list[str]:
        """Sorted names of the files directly inside that end in ``suffix``; empty when the folder is absent."""
        return sorted(i.base_name for i in self._inside() if i.type == fs.FileType.File and i.base_name.endswith(suffix))

    def folders(self) -> list[str]:
        """Sorted names of the folders directly inside; empty when the folder is absent."""
        return sorted(i.base_name for i in self._inside() if i.type == fs.FileType.Directory)

    def _inside(self) -> list[fs.FileInfo]:
        with paths.reached(self.uri):
            found: list[fs.FileInfo] = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return found

    def files(self, under: str = "") -> list[str]:
        """Sorted names of all files below ``under``, at any depth, as paths from here; empty when there are none."""
        root = self._path(under) if under else self._root
        found = self._fs.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return sorted(i.path.removeprefix(f"{self._root}/") for i in found if i.type == fs.FileType.File)

    def sha256(self, name: str) -> str:
        """The file's SHA-256 in hex, read in pieces.

        Raises:
            FormatError: if it is not there.
        """
        digest = hashlib.sha256()
        try:
            with self._fs.open_input_stream(self._path(name)) as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        except FileNotFoundError as error:
            raise FormatError(f"{self.uri}/{name}: not found") from error
        return digest.hexdigest()

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there, complete."""
        return self._type(name) == fs.FileType.File

    def _type(self, name: str) -> fs.FileType:
        with paths.reached(self.uri):
            return self._fs.get_file_info(self._path(name)).type

    def read_bytes(self, name: str) -> bytes:
        """The whole file.

        Raises:
            FormatError: if it is not there.
        """
        try:
            with paths.reached(self.uri), self._fs.open_input_stream(self._path(name)) as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError as error:
            raise FormatError(f"{self.uri}/{name}: not found") from error

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put ``data`` under ``name``, replacing what was there, atomically."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A binary stream whose content appears under ``name``, replacing what was there, when the body ends without an error.

        Raises:
            ConfigError: if it cannot be written; what was there stays.
        """
        if paths.is_remote(self.uri):
            with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:  # a stream into the store would appear even where the body fails
                yield spool
                spool.seek(0)
                with paths.reached(self.uri), self._fs.open_output_stream(self._path(name)) as stream:
                    shutil.copyfileobj(spool, stream, 2**22)
            return
        path = self._path(name)
        target = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with self._fs.open_output_stream(target) as stream:
                yield stream
            os.replace(target, path)
        except OSError as error:
            raise ConfigError(
                f"{self.uri}: cannot be written ({error}); free some space or choose another --out, then run the same command"
            ) from error
        finally:
            if os.path.exists(target):
                os.unlink(target)

    def reading(self, name: str) -> Any:
        """The file as a binary stream that can seek.

        Raises:
            FormatError: if it is not there.
        """
        try:
            return self._fs.open_input_file(self._path(name))
        except FileNotFoundError as error:
            raise FormatError(f"{self.uri}/{name}: not found") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as indented JSON with sorted keys (the same value gives the same bytes)."""
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """The JSON file's value.

        Raises:
            FormatError: if it is absent or not JSON.
        """
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise FormatError(f"{self.uri}/{name}: not JSON ({error})") from error

    def write_rows(self, name: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
        """Write the rows as one zstd Parquet file; no rows give a file with the schema alone."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_rows(self, columns: list[str] | None = None, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows of the named Parquet files (all of the folder's by default), file by file in sorted order.

        Raises:
            FormatError: if a file is not Parquet; the message names it.
        """
        for name in self.names(".parquet") if names is None else names:
            try:
                with self._fs.open_input_file(self._path(name)) as source:
                    table = pq.read_table(source, columns=columns)
            except (OSError, pa.ArrowException) as error:
                raise FormatError(f"{self.uri}/{name}: not a readable Parquet file ({error})") from error
            yield from table.to_pylist()

    def delete(self, name: str) -> None:
        """Remove the file; nothing happens when it is not there."""
        if self.exists(name):
            with paths.reached(self.uri):
                self._fs.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        """Remove the folder and all in it; nothing happens when it is not there."""
        if self._type(name) == fs.FileType.Directory:
            with paths.reached(self.uri):
                self._fs.delete_dir(self._path(name))

    def sweep(self) -> None:
        """Remove the half-written files that a killed process left behind."""
        for name in self.names(".tmp"):
            self.delete(name)
