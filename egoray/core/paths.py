"""Reading by path, wherever it leads: a local file or folder, or an address s3://, gs://; files there are read by range.

Options of an s3 address stand in it, as in ``s3://bucket/key?endpoint_override=host:9000&scheme=http&region=x``, or in the environment
(AWS_ENDPOINT_URL, AWS_REGION, the usual credentials). A store that says "slow down", or fails, is asked again, `ATTEMPTS` times in all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from pyarrow import fs

from egoray.errors import ConfigError

ATTEMPTS = 8
_REFUSALS = ("ACCESS_DENIED", "credential", "InvalidAccessKeyId", "SignatureDoesNotMatch", "HTTP status 403")


def is_remote(path: str) -> bool:
    """Whether it is an address, not a local path."""
    return "://" in path


def join(folder: str, *parts: str) -> str:
    """The path of something inside ``folder``, whose options stay at the end."""
    if not is_remote(folder):
        return os.path.join(folder, *parts)
    bare, mark, options = folder.partition("?")
    return "/".join((bare.rstrip("/"), *parts)) + mark + options


def absolute(path: str) -> str:
    """A local path from the root on; an address as it is."""
    return path if is_remote(path) else os.path.abspath(path)


def name(path: str) -> str:
    """The last step of the path."""
    return os.path.basename(path.partition("?")[0] if is_remote(path) else path)


def parent(path: str) -> str:
    """The folder that the path is in."""
    if not is_remote(path):
        return os.path.dirname(path)
    bare, mark, options = path.partition("?")
    return bare.rpartition("/")[0] + mark + options


def is_folder(path: str) -> bool:
    """Whether it is a folder; in an object store, whether anything lies under it.

    Raises:
        ConfigError: if the store cannot be reached.
    """
    return _info(path).type == fs.FileType.Directory if is_remote(path) else os.path.isdir(path)


def is_file(path: str) -> bool:
    """Whether it is a file.

    Raises:
        ConfigError: if the store cannot be reached.
    """
    return _info(path).type == fs.FileType.File if is_remote(path) else os.path.isfile(path)


def exists(path: str) -> bool:
    """Whether anything is there.

    Raises:
        ConfigError: if the store cannot be reached.
    """
    return _info(path).type != fs.FileType.NotFound if is_remote(path) else os.path.exists(path)


def listing(folder: str) -> list[tuple[str, int]]:
    """(name, bytes) of the files directly inside, in the order of their names.

    Raises:
        ConfigError: if the store cannot be reached.
    """
    if not is_remote(folder):
        return sorted((entry.name, entry.stat().st_size) for entry in os.scandir(folder))
    store, inside = resolve(folder)
    with reached(folder):
        found = store.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    return sorted((info.base_name, info.size or 0) for info in found if info.type == fs.FileType.File)


def size(path: str) -> int:
    """Bytes of a file; 0 if it is not there."""
    return (_info(path).size or 0) if is_remote(path) else (os.path.getsize(path) if os.path.isfile(path) else 0)


def open_file(path: str) -> BinaryIO:
    """The file as a binary stream that can seek; a remote one is read by range, as it is asked for.

    Raises:
        FileNotFoundError: if it is not there.
        ConfigError: if the store cannot be reached.
    """
    if not is_remote(path):
        return open(path, "rb")
    store, inside = resolve(path)
    with reached(path):
        stream: Any = store.open_input_file(inside)
    return stream


def read(path: str) -> bytes:
    """The whole file; raises as `open_file` does."""
    with open_file(path) as stream:
        return stream.read()


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address or local path, and the path in it.

    Raises:
        ConfigError: if there is no such kind of store.
    """
    if not is_remote(uri):
        return fs.LocalFileSystem(), os.path.abspath(uri)
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        return _s3(tuple(sorted(options.items()))), f"{parts.netloc}{parts.path}".rstrip("/")
    try:
        return fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{uri}: cannot be opened ({error}); check the address and the credentials") from error


@lru_cache(maxsize=8)
def _s3(options: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    given = dict(options)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in given:
        scheme, _, given["endpoint_override"] = endpoint.rpartition("://")
        given.setdefault("scheme", scheme or "https")
    unknown = given.keys() - {"endpoint_override", "scheme", "region"}
    if unknown:
        raise ConfigError(f"s3 address: unknown option {min(unknown)}; known are endpoint_override, scheme, region")
    given.setdefault("region", os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
    # A small file is then one PUT instead of three requests.
    return fs.S3FileSystem(**given, allow_delayed_open=True, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS))


@contextmanager
def reached(uri: str) -> Iterator[None]:
    """What a store answers to the body, in one line; errors of a local disk, and of a file that is not there, come as they are.

    Raises:
        ConfigError: for what a store says.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if not is_remote(uri):
            raise
        reason = " ".join(str(error).split())
        remedy = "try again, the finished units are kept"
        if any(
            sign in reason for sign in ("ACCESS_DENIED", "credential", "InvalidAccessKeyId", "SignatureDoesNotMatch", "HTTP status 403")
        ):
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile or role) that may use this bucket"
        elif "NO_SUCH_BUCKET" in reason or "bucket does not exist" in reason:
            remedy = "create the bucket, or correct its name"
        raise ConfigError(f"{uri.partition('?')[0]}: the store refused ({reason[:240]}); {remedy}") from error


def _info(path: str) -> fs.FileInfo:
    store, inside = resolve(path)
    with reached(path):
        return store.get_file_info(inside)
