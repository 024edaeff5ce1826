"""Find, check and load SAM 2 and 2.1 checkpoints: published names, local files, and configs of one's own beside the file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.modeling.sam2_base import SAM2Base

from egoray.errors import ModelError
from egoray.models.published import read_file, read_plain

SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""(width of the first stage, number of blocks) of the published trunks."""
POSTPROCESSING = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
"""What the package's own video predictor switches on at inference (its hole filling apart)."""


def load_sam2(name: str, device: str = "cpu", side: int | None = None) -> SAM2Base:
    """The network in eval mode on ``device``, from a file or a Hugging Face id.

    Args:
        name: a ``.pt`` file in the published form (``{"model": state dict}``), a ``.safetensors`` file of the same tensors,
            or an id such as ``facebook/sam2.1-hiera-tiny``. Half precision is widened to float32.
            A network of another shape needs its config beside the file, ``<file>.yaml``
            with the same stem; the published shapes are recognised by themselves.
        device: a torch device.
        side: frames are fed as squares of this many pixels, a multiple of 32, instead of what the config says.

    Raises:
        ModelError: if the file is missing, truncated, a pickle that holds more than tensors (it is refused, not run),
            of another architecture, or if the id cannot be fetched.
    """
    return load_with_config(name, device, side)[0]


def load_with_config(name: str, device: str = "cpu", side: int | None = None) -> tuple[SAM2Base, DictConfig]:
    """What `load_sam2` gives, and the config that it was built with."""
    path = Path(name)
    if not path.suffix and not path.exists():
        path = _download(name)
    weights = _read(path)
    sidecar = path.with_suffix(".yaml")
    config = OmegaConf.load(sidecar) if sidecar.exists() else OmegaConf.load(_published_config(weights, path))
    if not isinstance(config, DictConfig) or "model" not in config:
        raise ModelError(f"{sidecar}: not a SAM 2 config; expected a `model:` section as in the sam2 package's configs/")
    if side is not None:
        config.model.image_size = side
    model = build_network(config.model, sidecar)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path}: the weights do not fit the network ({reason}); put the config they were trained with beside them"
        ) from error
    return model.to(device).eval(), config


def write_random_checkpoint(path: str, seed: int = 0) -> str:
    """A SAM 2.1 of about 4 M random parameters, ``path`` (.pt) in the published form and its config beside it; returns ``path``.

    The start of training the nano tracker, and what tests and benchmarks run in place of published weights. Objects count
    as visible at first (the object score starts at +2), or every mask would be empty.
    """
    config = OmegaConf.load(str(resources.files("egoray.models.nano") / "tracker.yaml"))
    config.model.pop("sam_mask_decoder_extra_args")  # the published networks choose among their masks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_network(config.model, Path(path))
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 2.0)
    torch.save({"model": model.state_dict()}, path)
    OmegaConf.save(config, Path(path).with_suffix(".yaml"))
    return path


def _download(name: str) -> Path:
    if name not in HF_MODEL_ID_TO_FILENAMES:
        known = ", ".join(sorted(HF_MODEL_ID_TO_FILENAMES))
        raise ModelError(f"{name}: neither a checkpoint file nor a published SAM 2 id; the ids are {known}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=name, filename=HF_MODEL_ID_TO_FILENAMES[name][1]))
    except Exception as error:
        raise ModelError(f"{name}: cannot be downloaded ({type(error).__name__}); fetch the .pt file by hand and give its path") from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return read_file(path)
    content = read_plain(path)
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise ModelError(f"{path}: not a SAM 2 checkpoint; expected the key 'model' with the weights")
    return weights


def _published_config(weights: dict[str, torch.Tensor], path: Path) -> Any:
    stem = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {key.split(".")[3] for key in weights if key.startswith("image_encoder.trunk.blocks.")}
    size = SIZES.get((stem.shape[0], len(blocks))) if stem is not None else None
    if size is None:
        raise ModelError(f"{path}: not a published SAM 2 network (tiny, small, base+, large); put its config beside it as {path.stem}.yaml")
    family = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    return resources.files("sam2") / "configs" / family / f"{family}_hiera_{size}.yaml"


def build_network(config: DictConfig, where: Path) -> SAM2Base:
    """The network of a config's ``model:`` section, with fresh weights; where the config is silent, set as the package's predictor is.

    Raises:
        ModelError: if the config, read from ``where``, names anything that is not a part of the network.
    """
    config = OmegaConf.merge(POSTPROCESSING, config, {"_target_": "sam2.modeling.sam2_base.SAM2Base"})
    for unused in ("fill_hole_area", "non_overlap_masks", "clear_non_cond_mem_around_input", "add_all_frames_to_correct_as_cond"):
        config.pop(unused, None)
    for target in _targets(OmegaConf.to_container(config)):
        if not target.startswith("sam2.modeling."):
            raise ModelError(f"{where}: names {target}, which is not a part of sam2.modeling; refused")
    return instantiate(config, _recursive_=True)


def _targets(node: Any) -> list[str]:
    if isinstance(node, list):
        return [t for item in node for t in _targets(item)]
    if not isinstance(node, dict):
        return []
    own = [str(node["_target_"])] if "_target_" in node else []
    return own + [t for value in node.values() for t in _targets(value)]
