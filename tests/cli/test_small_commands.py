"""The commands `demo`, `protocols` and `cache`."""

import pytest

from srvp_fd_jax.protocols import PROTOCOLS

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


def test_protocols_side_by_side(run):
    header, *rows = run("protocols").out.splitlines()
    assert [row.split()[0] for row in rows] == list(PROTOCOLS)
    assert all(len(row) < 190 for row in rows)
    assert "output" in header.split()
    assert "seed" not in header.split()  # the same for all presets
    column = header.index("real from")
    assert rows[3][column:].startswith("random, every 8th")
    protocol = run("protocols", "--json").json[4]
    expected = {"name": "cd_fvd", "frames": 16, "real": {"start": "random", "step": 1}}
    assert protocol == protocol | expected
    assert (protocol["output"], protocol["distance"]) == ("logits", "frechet")


def test_the_cache_is_limited_listed_and_cleared(run, sets, cache, monkeypatch):
    monkeypatch.setattr("srvp_fd_jax.cli.cache._MAX_BYTES", 100_000)
    (cache / "statistics").mkdir(parents=True)
    old = cache / "statistics" / "old.safetensors"
    old.write_bytes(bytes(200_000))
    weights = cache / "kth.safetensors"
    weights.write_bytes(bytes(300_000))
    run("compute", *sets, *DYNAMICS)
    assert not old.exists()
    assert weights.exists()
    first, *rows = run("cache").out.splitlines()
    assert first == str(cache)
    assert [row.split()[:3] for row in rows] == [
        ["weights", "1", "files"],
        ["statistics", "2", "files"],
        ["programs", "0", "files"],
    ]
    cleared = run("cache", "--clear", "--json").json
    assert cleared["cleared"] is True
    assert cleared["weights"] == {"files": 1, "bytes": 300_000}
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_demo_shows_what_each_comparison_reacts_to(run):
    _, header, *lines = run("demo", "--clips", "200").out.splitlines()
    rows = {
        line[:24].rstrip(): dict(zip(header.split(), map(float, line[24:].split()), strict=True))
        for line in lines
    }
    as_json = {row.pop("clips"): row for row in run("demo", "--clips", "3", "--json").json}
    assert [(name, [*row]) for name, row in as_json.items()] == [(n, [*r]) for n, r in rows.items()]
    same = rows["same distribution"]
    for noise in ("noise 0.1", "noise 0.3"):
        assert all(rows[noise][comparison] > 3 * same[comparison] for comparison in same)
    assert rows["noise 0.3"]["frame"] > rows["noise 0.1"]["frame"]
    for time in ("frozen from the start", "all shuffled in time", "twice as fast"):
        assert rows[time]["dynamics"] > 1.2 * same["dynamics"]
        assert rows[time]["frame"] < 1.5 * same["frame"]
    assert rows["blur 7"]["static_content"] > 1.05 * rows["blur 3"]["static_content"]


def test_demo_writes_videos(run, tmp_path):
    folder = tmp_path / "videos"
    assert run("demo", "-o", folder, "--clips", "100").out == f"{folder}\n"
    perfect, still = (
        float(run("compute", folder / "real", folder / name, *DYNAMICS).out)
        for name in ("perfect", "still")
    )
    assert still > 1.5 * perfect


@pytest.mark.parametrize("words", [["demo", "--clips", "1"], ["cache", "--clips", "1"], []])
def test_wrong_usage(misused, words):
    assert misused(*words)
