"""Makes resized.npz: frames as TensorFlow, PyTorch and cd-fvd themselves resize them.

    pip install tensorflow-cpu torch cd-fvd
    python make_resized.py

Made with tensorflow-cpu 2.21.0, torch 2.13.0 and cd-fvd 0.1.1. Only every 14th pixel and the edges
are kept.
"""

import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf
import torch
from torch.nn.functional import interpolate

SIZES = [(48, 64), (64, 64), (300, 260), (128, 160), (225, 500)]
PIXELS = np.unique([*range(0, 224, 14), 1, 2, 221, 222, 223])


def frames(height: int, width: int) -> np.ndarray:
    """A clip of two frames, the same wherever it is made."""
    t, y, x, c = np.ogrid[:2, :height, :width, :3]
    noise = (y * 7919 + x * 104729 + t * 31 + c * 17) % 61
    return ((y * (3 + c) + x * (5 - t) + noise * 2) % 256).astype(np.uint8)


def bilinear_tf1(clip: np.ndarray) -> np.ndarray:
    """google-research, frechet_video_distance.preprocess."""
    return tf.compat.v1.image.resize_bilinear(
        clip.astype(np.float32), (224, 224), align_corners=False
    ).numpy()


def bilinear(clip: np.ndarray) -> np.ndarray:
    """StyleGAN-V and VideoGPT."""
    x = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    x = interpolate(x, (224, 224), mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1).numpy()


def shorter_side(clip: np.ndarray) -> np.ndarray:
    """common_metrics, fvd/styleganv/fvd.py."""
    x = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    h, w = x.shape[2:]
    scale = 224 / min(h, w)
    size = (224, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), 224)
    x = interpolate(x, size, mode="bilinear", align_corners=False)
    top, left = (x.shape[2] - 224) // 2, (x.shape[3] - 224) // 2
    return x[:, :, top : top + 224, left : left + 224].permute(0, 2, 3, 1).numpy()


def cd_fvd(clip: np.ndarray) -> np.ndarray:
    """The loader of cd-fvd, its bytes, and what it does before I3D."""
    # The module of its loaders imports these for its datasets; its resizing needs torch alone.
    unused = ("torchvision", "torchvision.datasets", "torchvision.datasets.video_utils")
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in unused}):
        from cdfvd.third_party.i3d.utils import preprocess_i3d
        from cdfvd.utils.data_utils import preprocess

    video = preprocess(torch.from_numpy(clip), resolution=128)["video"]
    stored = (video.permute(1, 2, 3, 0) * 255).byte().numpy()
    scaled = preprocess_i3d(stored[None])[0]
    return (scaled.permute(1, 2, 3, 0).numpy() + 1) * 127.5


def main() -> None:
    """Writes the file beside this script."""
    rules = (bilinear_tf1, bilinear, shorter_side, cd_fvd)
    arrays = {
        f"{rule.__name__} {h}x{w}": rule(frames(h, w))[:, PIXELS][:, :, PIXELS].astype(np.float32)
        for rule in rules
        for h, w in SIZES
    }
    np.savez_compressed(Path(__file__).with_name("resized.npz"), **arrays)


if __name__ == "__main__":
    main()
