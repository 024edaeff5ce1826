"""Released annotations and weights from the Hugging Face hub: pinned to a commit, resumed, each file against the hub's own sum."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoray.errors import ConfigError, FormatError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A repository of the hub: its id, whether it is a dataset, the files wanted (fnmatch), and what its licence says."""

    repository: str
    kind: str
    wanted: tuple[str, ...]
    licence: str


EGOMASK = Release(
    repository="XuuuXYZ/EgoMask",
    kind="dataset",
    wanted=("*",),
    licence="EgoMask: its code repository has no licence file; its masks are drawn on Ego4D, whose licence binds you. Research only.",
)
_SMALL = ("*.json", "*.txt", "*.model")
_WEIGHTS = (*_SMALL, "*.safetensors")
MODELS = {
    **{
        f"sam2.1-{size}": Release(
            repository=f"facebook/sam2.1-hiera-{size}", kind="model", wanted=("*.pt", "*.yaml"), licence="SAM 2.1: Apache-2.0."
        )
        for size in ("tiny", "small", "base-plus", "large")
    },
    "grounding-dino": Release(
        repository="IDEA-Research/grounding-dino-tiny", kind="model", wanted=_WEIGHTS, licence="Grounding DINO: Apache-2.0."
    ),
    "sa2va-4b": Release(
        repository="ByteDance/Sa2VA-4B", kind="model", wanted=_WEIGHTS, licence="Sa2VA: see its model card; InternVL and Qwen terms apply."
    ),
    "sa2va-26b": Release(
        repository="ByteDance/Sa2VA-26B",
        kind="model",
        wanted=_WEIGHTS,
        licence="Sa2VA: see its model card; InternVL and InternLM terms apply.",
    ),
    "videolisa": Release(
        repository="ZechenBai/VideoLISA-3.8B", kind="model", wanted=(*_WEIGHTS, "*.bin"), licence="VideoLISA: see its model card."
    ),
}


def obtain(release: Release, out: str | None, *, revision: str | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Fetch the release's files; what was fetched, and where it lies.

    Files are fetched at the commit that ``revision`` means now. One that is there with the hub's own sum (SHA-256 of a
    large file, git's SHA-1 of a small one) is left as it is; one with another sum is fetched again, once.

    Args:
        release: what to fetch.
        out: a folder; None for the hub's own cache, where ``--model`` looks.
        revision: a branch, tag or commit; None for the newest.
        progress: called with the files done and the files there are.

    Raises:
        ConfigError: if the hub cannot be reached, or asks for its licence to be accepted first.
        FormatError: if a file has another sum when fetched anew.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    where: dict[str, Any] = {"repo_id": release.repository, "repo_type": release.kind}
    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        api = HfApi(endpoint=endpoint)
        commit = api.repo_info(**where, revision=revision).sha
        tree = [f for f in api.list_repo_tree(**where, revision=commit, recursive=True) if isinstance(f, RepoFile)]
        files = [f for f in tree if any(fnmatch.fnmatch(f.path, pattern) for pattern in release.wanted)]
        kept, folder = 0, Path(out or ".")
        for done, file in enumerate(files, start=1):
            ask: dict[str, Any] = {**where, "filename": file.path, "revision": commit, "endpoint": endpoint} | (
                {"local_dir": out} if out else {}
            )
            before = folder / file.path
            if out and before.is_file() and _matches(before, file):
                kept += 1
            else:
                path = Path(hf_hub_download(**ask))
                if not _matches(path, file):
                    path = Path(hf_hub_download(**ask, force_download=True))
                if not _matches(path, file):
                    path.unlink()
                    raise FormatError(
                        f"{release.repository}/{file.path}: arrived damaged twice (its sum is not the hub's); try again later"
                    )
                if not out:
                    folder = path.parents[file.path.count("/")]
            if progress:
                progress(done, len(files))
    except FormatError:
        raise
    except Exception as error:
        raise ConfigError(f"{release.repository}: cannot be fetched ({type(error).__name__}); {_remedy(type(error).__name__)}") from error
    return {
        "stage": "obtain",
        "repository": release.repository,
        "commit": commit,
        "folder": os.path.abspath(folder),
        "files": len(files),
        "already_there": kept,
        "bytes": sum(f.size for f in files),
        "licence": release.licence,
    }


def _remedy(error: str) -> str:
    if "Gated" in error or "NotFound" in error:
        return "accept its licence on its page of the hub, put your token into HF_TOKEN, and check the name"
    return "the same command goes on where it stopped; HF_ENDPOINT names another hub"


def _matches(path: Path, file: Any) -> bool:
    """Whether the file has the size and the sum that the hub's tree lists."""
    if path.stat().st_size != file.size:
        return False
    large = file.lfs is not None
    digest = hashlib.sha256() if large else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == (file.lfs.sha256 if large else file.blob_id)
