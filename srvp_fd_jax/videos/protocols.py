"""Evaluation protocols of the Fréchet Video Distance, as data.

The code that FVD was published with says nothing about how clips are chosen, and every tool resizes
and divides in its own way; numbers made under different protocols cannot be compared. The presets
restate what the field's tools do.
"""

import dataclasses

import jax

from srvp_fd_jax.videos.resizing import Resize


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Protocol:
    """How clips become a number.

    Attributes:
        name: What a result is called by.
        frames: Frames of a clip; None where the protocol leaves them to the caller.
        clips: Clips a side; None where the protocol leaves them to the caller.
        resize: How frames are brought to 224×224, see `resizing.resize`.
        ddof: Covariances are divided by n − ddof.
    """

    name: str
    frames: int | None
    clips: int | None
    resize: Resize
    ddof: int


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # https://github.com/google-research/google-research/tree/master/frechet_video_distance
        Protocol("tensorflow", None, None, "bilinear_tf1", ddof=1),
        # https://github.com/universome/stylegan-v, src/metrics
        Protocol("fvd2048_16f", 16, 2048, "bilinear", ddof=0),
        Protocol("fvd2048_128f", 128, 2048, "bilinear", ddof=0),
        Protocol("fvd2048_128f_subsample8f", 16, 2048, "bilinear", ddof=0),
        # https://github.com/songweige/content-debiased-fvd
        Protocol("cd_fvd", 16, None, "cd_fvd", ddof=0),
        # https://github.com/JunyaoHu/common_metrics_on_video_quality, method "styleganv"
        Protocol("common_metrics", None, None, "shorter_side", ddof=1),
    )
}
"""Presets by name."""
