"""``SHA256SUMS``: a line a file, as `sha256sum -c` reads it; written last, so that its presence says the folder is whole."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from egoray.core.storage import Folder
from egoray.errors import FormatError

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_checksums(folder: Folder) -> None:
    """Sum every file of the folder but the list itself."""
    names = [name for name in folder.files() if name != NAME]
    with ThreadPoolExecutor(8) as pool:
        sums = pool.map(folder.sha256, names)
        folder.write_bytes(NAME, "".join(f"{value}  {name}\n" for value, name in zip(sums, names, strict=True)).encode())


def read_checksums(folder: Folder) -> dict[str, str]:
    """The sum of each listed file by its path from the folder.

    Raises:
        FormatError: if the list is missing, or a line is none; the message names it.
    """
    sums = {}
    for number, line in enumerate(folder.read_bytes(NAME).decode("utf-8", "replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise FormatError(f"{folder.uri}/{NAME}, line {number}: expected a SHA-256 sum, two spaces and a path")
        sums[match[2]] = match[1]
    return sums
