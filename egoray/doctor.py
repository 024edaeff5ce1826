"""What this machine is ready for: one check a thing that a run needs, each with what was found and, where it is wrong, the remedy."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from egoray.core.storage import Folder
from egoray.errors import EgorayError

Level = Literal["ok", "warn", "fail"]
PYTHON = (3, 11), (3, 14)
"""The first that runs egoray, and the first that does not."""
RAY = (2, 60)
TORCH = (2, 10)
DECODERS = {"H.264": ("h264",), "HEVC": ("hevc",), "VP9": ("vp9", "libvpx-vp9"), "AV1": ("libdav1d", "libaom-av1")}
"""FFmpeg's names for what decodes each; its own av1 does so on hardware alone."""
PORTS = {8265: "Ray's dashboard, which runs jobs", 10001: "Ray's client server", 8000: "Ray Serve", 6379: "Ray's GCS"}
LOOPBACK = ("127.", "::1", "::ffff:127.")
FULL_GB, TIGHT_GB = 1.0, 20.0
"""Free disk at which a run will stop, and below which one of thousands of clips will."""
SLOW_MB_PER_S = 20.0
WRITTEN_MB = 64
PROBE = "egoray-doctor.probe"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's: what was looked at, what was found, and the remedy ("" where all is well)."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def examine(out: str = ".", *, models: Sequence[str] = (), hashes: bool = False) -> list[Check]:
    """Every check of this machine, in the order in which they matter.

    Args:
        out: where results would go, local or s3:// / gs://; 64 MB are written there and removed.
        models: what must fit here; the memory of the others is only told.
        hashes: read all weights and compare their sha256 with the names they have in the cache; gigabytes.

    Raises:
        ModelError: for an unknown model.
    """
    here = _models(models)
    return [
        check_python(),
        *check_torch(),
        *check_decoders(),
        check_disk(out),
        check_writing(out),
        check_ray(),
        check_auth(os.environ),
        check_ports(_listening()),
        *check_weights(_cache(), hashes=hashes),
        *check_memory(here, wanted=models),
    ]


def as_rows(checks: Iterable[Check]) -> dict[str, Any]:
    """The checks as JSON: {"stage": "doctor", "level": the worst, "checks": [{"name", "level", "found", "remedy"}]}."""
    rows = [asdict(check) for check in checks]
    worst = max((row["level"] for row in rows), key=("ok", "warn", "fail").index, default="ok")
    return {"stage": "doctor", "level": worst, "checks": rows}


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """3.11 to 3.13."""
    found = ".".join(map(str, version))
    if PYTHON[0] <= version[:2] < PYTHON[1]:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "egoray needs Python 3.11 to 3.13; make a virtual environment with one of them")


def check_torch() -> list[Check]:
    """torch's release, and whether it sees the GPUs that the driver shows."""
    version = _installed("torch")
    if version is None:
        return [Check("torch", "fail", "not installed", "pip install torch torchvision")]
    if _release(version) < TORCH:
        remedy = "pip install 'torch>=2.10': older ones run code that a checkpoint brings, in spite of weights_only"
        return [Check("torch", "fail", version, remedy)]
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [Check("torch", "ok", version), Check("gpu", "ok", f"{len(names)} × {names[0]}, CUDA {torch.version.cuda}")]
    if shutil.which("nvidia-smi"):
        remedy = "install a torch built for the driver's CUDA (pytorch.org), or update the driver; a container needs --gpus all"
        return [Check("torch", "ok", version), Check("gpu", "fail", "a driver, but torch sees no device", remedy)]
    remedy = "none is needed for grabcut and nano; the published models want one"
    return [Check("torch", "ok", version), Check("gpu", "warn", "none", remedy)]


def check_decoders(decoders: Mapping[str, Sequence[str]] = DECODERS) -> list[Check]:
    """PyAV's decoders, and OpenCV by a JPEG there and back."""
    checks = []
    try:
        import av
    except ImportError as error:
        checks.append(Check("video decoders", "fail", f"PyAV cannot be loaded ({error})", "pip install 'av>=15'"))
    else:
        present = [title for title, names in decoders.items() if any(_decodes(name) for name in names)]
        missing = [title for title in decoders if title not in present]
        found = f"PyAV {av.__version__}: {', '.join(present) or 'none'}"
        remedy = (
            f"no {', '.join(missing)}: pip install --force-reinstall --only-binary=av av, whose wheels have them all" if missing else ""
        )
        level: Level = "fail" if "H.264" in missing else ("warn" if missing else "ok")
        checks.append(Check("video decoders", level, found, remedy))
    try:
        import cv2
        import numpy as np

        ok, data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
        if not ok or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
            raise ImportError("it reads no JPEG")
        checks.append(Check("opencv", "ok", cv2.__version__))
    except ImportError as error:
        remedy = "on a server without libGL: pip uninstall opencv-python && pip install opencv-python-headless"
        checks.append(Check("opencv", "fail", f"cannot be used ({error})", remedy))
    return checks


def _decodes(name: str) -> bool:
    import av

    try:
        av.Codec(name, "r")
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def check_disk(out: str, free_bytes: int | None = None) -> Check:
    """Free space where the results go; an object store has no end."""
    if "://" in out:
        return Check("disk", "ok", f"{out}: an object store")
    path = Path(out).absolute()
    while not path.exists():
        path = path.parent
    free_gb = (shutil.disk_usage(path).free if free_bytes is None else free_bytes) / 1e9
    found = f"{free_gb:.1f} GB free at {path}"
    if free_gb < FULL_GB:
        return Check("disk", "fail", found, "free some, or choose another --out; a full disk stops a run, which resumes when there is room")
    if free_gb < TIGHT_GB:
        return Check("disk", "warn", found, "enough for a try; a dataset's frames and checkpoints of large models take more")
    return Check("disk", "ok", found)


def check_writing(out: str, size_mb: int = WRITTEN_MB) -> Check:
    """How fast ``size_mb`` MB land under ``out`` and on the disk itself; they are removed again."""
    started = time.monotonic()
    try:
        folder = Folder(out)
        made = "://" not in out and not Path(out).exists()
        with folder.writing(PROBE) as stream:
            for _ in range(size_mb):
                stream.write(bytes(1_000_000))
        if "://" not in out:
            descriptor = os.open(Path(out) / PROBE, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        rate = size_mb / (time.monotonic() - started)
        folder.delete(PROBE)
        if made:
            Path(out).rmdir()
    except (EgorayError, OSError) as error:
        return Check("writing", "fail", " ".join(str(error).split()), "choose an --out that can be written, or see to its credentials")
    found = f"{rate:.0f} MB/s at {out}"
    if rate < SLOW_MB_PER_S:
        return Check("writing", "warn", found, "slow enough to hold workers back; a local disk or an object store in the same region")
    return Check("writing", "ok", found)


def check_ray(version: str | None = None) -> Check:
    """Ray's release."""
    found = version or _installed("ray")
    if found is None:
        return Check("ray", "fail", "not installed", "pip install 'ray[data,train,serve]>=2.60'")
    if _release(found) < RAY:
        return Check("ray", "fail", found, "pip install 'ray[data,train,serve]>=2.60', the same on every machine of a cluster")
    return Check("ray", "ok", found)


def check_auth(environ: Mapping[str, str], home: Path | None = None) -> Check:
    """Whether a cluster here asks for a token. Nothing of the token is shown."""
    mode = environ.get("RAY_AUTH_MODE", "")
    kept = (home or Path.home()) / ".ray" / "auth_token"
    given = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if environ.get(name)), "")
    token = given or (str(kept) if kept.is_file() else "")
    if mode == "disabled":
        remedy = "unset RAY_AUTH_MODE: without a token, who reaches Ray's ports runs code here"
        return Check("ray token", "warn", "RAY_AUTH_MODE=disabled", remedy)
    if mode == "token" and not token:
        remedy = "ray get-auth-token --generate here, then the same token on every machine of the cluster"
        return Check("ray token", "fail", "RAY_AUTH_MODE=token, but there is no token", remedy)
    path = environ.get("RAY_AUTH_TOKEN_PATH", "") if given == "RAY_AUTH_TOKEN_PATH" else ("" if given else token)
    if path and not os.access(path, os.R_OK):
        return Check("ray token", "fail", f"{path} cannot be read", "give the path of a readable file in RAY_AUTH_TOKEN_PATH")
    if path and os.stat(path).st_mode & 0o077:
        return Check("ray token", "warn", f"{path} can be read by others", f"chmod 600 {path}")
    if not mode:
        remedy = "export RAY_AUTH_MODE=token wherever `ray start` runs"
        return Check("ray token", "ok", f"token ({token})") if token else Check("ray token", "warn", "no token yet", remedy)
    return Check("ray token", "ok", f"{mode} ({token})")


def check_ports(listening: Iterable[tuple[str, int]] | None) -> Check:
    """Which of Ray's ports listen to more than this machine; ``listening`` are (address, port), None where it cannot be known."""
    if listening is None:
        return Check("ports", "warn", "this system does not tell which ports listen", "run as a user who may see them")
    open_ones = sorted({(port, address) for address, port in listening if port in PORTS and not address.startswith(LOOPBACK)})
    if not open_ones:
        return Check("ports", "ok", f"none of {', '.join(map(str, sorted(PORTS)))} listens beyond loopback")
    found = "; ".join(f"{PORTS[port]}, on {address}:{port}" for port, address in open_ones)
    remedy = (
        "on a machine of its own, --dashboard-host=127.0.0.1 and host: 127.0.0.1; in a cluster, a private network and RAY_AUTH_MODE=token"
    )
    return Check("ports", "warn", found, remedy)


def check_weights(cache: Path, *, hashes: bool = False) -> list[Check]:
    """Each published model in the hub's cache, with its size and sha256.

    The cache names a large file by the sha256 that the hub gives for it; with ``hashes`` the content is held against that.
    """
    checks = []
    for model in sorted(cache.glob("models--*")):
        name = "weights: " + model.name.removeprefix("models--").replace("--", "/")
        if any((model / "blobs").glob("*.incomplete")):
            checks.append(Check(name, "warn", "a download broke off", "any command with this model takes it up again"))
        for entry in sorted(model.glob("snapshots/*/**/*")):
            blob = entry.resolve()
            if not _SHA256.fullmatch(blob.name):
                continue
            where = f"{entry.relative_to(model / 'snapshots')}"
            if not blob.is_file():
                checks.append(Check(name, "fail", f"{where}: its content is gone", f"rm -r {model}, then fetch it again"))
                continue
            found = f"{where}: {blob.stat().st_size / 1e9:.2f} GB, sha256 {blob.name}"
            if hashes and sha256(blob) != blob.name:
                checks.append(Check(name, "fail", f"{found}, which its content does not have", f"rm {blob} {entry}, then fetch it again"))
            else:
                checks.append(Check(name, "ok", found + (", checked" if hashes else "")))
    return checks or [Check("weights", "ok", f"none in {cache}; fetched when a model first needs them")]


def sha256(path: Path) -> str:
    """64 hex digits of a file's content, read 4 MB at a time."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_memory(here: Sequence[Mapping[str, Any]], wanted: Sequence[str] = (), free_gb: float | None = None) -> list[Check]:
    """Memory that is free now, on the roomiest GPU or in the machine, against what each model needs.

    Args:
        here: rows of `registry.models_here`.
        wanted: names of those that must fit.
        free_gb: instead of asking the machine.
    """
    free, kind = _free_gb() if free_gb is None else (free_gb, "memory")
    names = {name.partition(":")[0] for name in wanted}
    checks = []
    for row in here:
        fits = row["memory_gb"] <= free
        found = f"needs {row['memory_gb']:g} GB, {free:.1f} GB of {kind} free"
        level: Level = "ok" if fits else ("fail" if row["name"] in names else "warn")
        remedy = "" if fits else "end what else runs there, choose a smaller model, or a machine with more"
        checks.append(Check(f"model {row['name']}", level, found, remedy))
    return checks


def _models(wanted: Sequence[str]) -> list[dict[str, Any]]:
    from egoray import registry

    for name in wanted:
        if name.partition(":")[0] not in registry.TRACKERS:
            registry.grounder_entry(name)
    return registry.models_here()


def _free_gb() -> tuple[float, str]:
    import torch

    if torch.cuda.is_available():
        return max(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())) / 1e9, "GPU memory"
    from egoray.models.published import free_memory

    return free_memory() / 1e9, "memory"


def _listening() -> Iterator[tuple[str, int]] | None:
    import psutil

    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.AccessDenied, OSError):
        return None
    return ((c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN)


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
