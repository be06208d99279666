import sys

import numpy as np
import pytest
from clips import decode

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.demo.videos import write_videos


def test_videos_keep_every_bit(tmp_path):
    write_videos(tmp_path, 3, seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["perfect", "real", "still"]
    rng = np.random.default_rng(1)
    real, perfect = (moving_digits(rng, 3, 16) for _ in range(2))
    for i in range(3):
        for name, clips in (("real", real), ("perfect", perfect)):
            frames = decode(tmp_path / name / f"{i:04}.mp4")
            np.testing.assert_array_equal(frames, np.repeat(clips[i], 3, axis=-1))
        still = decode(tmp_path / "still" / f"{i:04}.mp4")
        np.testing.assert_array_equal(still, np.repeat(perfect[i, :1], 16, axis=0).repeat(3, -1))


def test_without_the_extra_what_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[video\]" in a clone'):
        write_videos(tmp_path, 2, seed=0)
