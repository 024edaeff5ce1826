"""The `sam2` package's own video predictor, on a CPU and on frames in memory: what our engine is held against."""

from importlib import resources
from unittest import mock

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from sam2 import sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

PUBLISHED = {
    "num_maskmem": 7,
    "max_obj_ptrs_in_encoder": 16,
    "multimask_output_in_sam": True,
    "multimask_output_for_tracking": True,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 1,
    "use_multimask_token_for_obj_ptr": True,
}
"""What the published configs switch on and the narrow one leaves out."""
SAM_2_0 = {"no_obj_embed_spatial": False, "add_tpos_enc_to_obj_ptrs": False, "proj_tpos_enc_in_obj_ptrs": False}
SAM_2_0 |= {"use_signed_tpos_enc_to_obj_ptrs": False}


class StockPredictor(SAM2VideoPredictor):
    """The predictor as it is, but that `init_state` takes a list of ``(H, W, 3)`` uint8 frames."""

    def init_state(self, frames):
        pixels = np.stack([np.array(Image.fromarray(f).resize((self.image_size, self.image_size))) for f in frames])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0
        images -= torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
        images /= torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
        with mock.patch.object(sam2_video_predictor, "load_video_frames", return_value=(images, *frames[0].shape[:2])):
            return super().init_state("in memory")

    def propagate(self, state, *args, **kwargs):
        """Run `propagate_in_video` quietly: {frame: {object id: (H, W) logits at the video's size}}."""
        with mock.patch.object(sam2_video_predictor, "tqdm", lambda frames, **_: frames):
            steps = list(self.propagate_in_video(state, *args, **kwargs))
        return {frame: {key: logits[i, 0].numpy() for i, key in enumerate(keys)} for frame, keys, logits in steps}

    def low_res(self, state, key, frame):
        """The ``(h, w)`` logits that it keeps of one object in one frame."""
        outputs = state["output_dict_per_obj"][state["obj_id_to_idx"][key]]
        out = outputs["cond_frame_outputs"].get(frame) or outputs["non_cond_frame_outputs"][frame]
        return out["pred_masks"][0, 0].numpy()


def load_stock(checkpoint, **changes):
    """The predictor with the weights of ``checkpoint`` and the config beside it, as the package builds it for inference."""
    config = OmegaConf.load(checkpoint.replace(".pt", ".yaml")).model
    config._target_ = f"{__name__}.StockPredictor"
    config.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    config.binarize_mask_from_pts_for_mem_enc = True
    config = OmegaConf.merge(config, changes)
    predictor = instantiate(config, _recursive_=True)
    predictor.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return predictor.eval()


def write_lively(path, seed=0, **changes):
    """A narrow random network in which memory matters: weights beside ``path`` as a checkpoint; returns ``path``.

    A fresh one answers nearly alike whatever it remembers, so that a wrong memory would go unnoticed.
    """
    config = OmegaConf.load(str(resources.files("egoray.models.nano") / "tracker.yaml"))
    config.model = OmegaConf.merge(config.model, changes)
    config.model.pop("sam_mask_decoder_extra_args")  # as in the published configs, which leave it to the predictor
    torch.manual_seed(seed)
    model = instantiate(config.model, _recursive_=True)
    with torch.no_grad():
        for mlp in model.sam_mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight *= 12
        for layer in model.memory_attention.layers:
            layer.cross_attn_image.q_proj.weight *= 4
            layer.cross_attn_image.out_proj.weight *= 8
        model.maskmem_tpos_enc *= 30
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 0.5
    torch.save({"model": model.state_dict()}, path)
    OmegaConf.save(config, str(path).replace(".pt", ".yaml"))
    return str(path)
