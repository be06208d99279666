import base64
import dataclasses
import html
import io
import json
import re
import sys
import warnings
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srvp_fd_jax import compute, report
from srvp_fd_jax.demo import corruptions
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.reports import page
from srvp_fd_jax.reports.findings import Findings
from srvp_fd_jax.significance.severity import Standing

PROTOCOLS = [f"srvp:digits:{name}" for name in ("frame", "dynamics")]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Clips, and others whose frames are noisy from the fifth on; one file is damaged."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    clips = moving_digits(rng, 41, 6)
    clips[21:, 4:] = corruptions.add_noise(clips[21:, 4:], rng, 0.3)
    for i, clip in enumerate(clips):
        side = folder / ("real" if i < 21 else "fake & <b>")
        side.mkdir(exist_ok=True)
        np.save(side / f"{i}.npy", clip)
    (side / "damaged.npy").write_text("not an array")
    return str(folder / "real"), str(folder / "fake & <b>")


@dataclasses.dataclass
class Written:
    """A page, its findings, and their numbers as JSON holds them."""

    text: str
    findings: list[Findings]
    results: list[dict[str, Any]]


@pytest.fixture(scope="module")
def written(sides, tmp_path_factory: pytest.TempPathFactory) -> Written:
    output = tmp_path_factory.mktemp("report") / "new" / "report.html"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        findings = report(*sides, PROTOCOLS, output)
    assert {str(warning.message) for warning in told} == {
        text for one in findings for text in one.warnings
    }
    results = json.loads(json.dumps([one.summary() for one in findings]))
    return Written(output.read_text(), findings, results)


class _Page(HTMLParser):
    """Gathers what a page refers to, its headings and the cells of its first table."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.identifiers: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes)
        self.sources += [values[name] for name in ("src", "srcset") if name in values]
        self.links += [values[name] for name in ("href", "xlink:href") if name in values]
        self.identifiers += [values["id"]] if "id" in values else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_page_is_whole_and_needs_no_other_file(written):
    text = written.text
    parsed = _Page(text)
    assert parsed.open == []
    assert len(set(parsed.identifiers)) == len(parsed.identifiers)
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.identifiers)
    assert not re.search(r"(src|href)\s*=\s*.?https?:|url\((?!#)|@import|<script|<link", text)
    # Under both protocols 4 pairs, and once 4 random clips a side; all of them play and stand.
    assert len(parsed.sources) == 2 * (2 * 4 * 2 + 2 * 4)
    for source in parsed.sources:
        kind, data = source.split(",")
        assert kind == "data:image/webp;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (image.size, image.n_frames) in [((64, 64), 6), ((6 * 66, 66), 1)]
    assert parsed.headings == [
        "Beside chance",
        "How far that is",
        "Along the clip",
        "Nearest real clips",
        "Random clips",
        "How to read these numbers",
        "Details",
    ]
    # Under each protocol the distance beside the floor, along the clip, and against its number.
    assert text.count("<svg") == 2 * 3


@pytest.mark.filterwarnings("ignore:.*(samples|could not be read)")
def test_page_tells_the_numbers(sides, written):
    computed = json.loads(json.dumps([one.summary() for one in compute(*sides, PROTOCOLS)]))
    told = [html.unescape(one) for one in re.findall('<p class="told">(.*)</p>', written.text)]
    rows = re.findall(r"<tr><td>(srvp:.*)</td></tr>", written.text)
    names = [*PROTOCOLS, *PROTOCOLS]
    assert re.findall(r"(?:name|<figcaption).*(srvp:digits:\w+)<", written.text)[:4] == names
    for i, (name, result) in enumerate(zip(PROTOCOLS, written.results, strict=True)):
        assert result["distance"] == pytest.approx(computed[i]["distance"], rel=1e-6)
        assert result["fake"] == computed[i]["fake"]
        assert result["verdict"] == told[i].replace("\u00a0", " ")
        assert len(result["curve"]["distances"]) == len(result["curve"]["sizes"]) == 10
        (low, high), floor = result["interval"], result["floor"]
        assert low <= result["distance"] <= high
        cells = re.split("</td><td>", rows[i].replace("<strong>", "").replace("</strong>", ""))
        number = r"([0-9.]+)"
        numbers = re.fullmatch(rf"{number} \({number} to {number}\)", cells[1]).groups()
        np.testing.assert_allclose([*map(float, numbers)], [result["distance"], low, high], 0.1)
        numbers = re.fullmatch(rf"{number} \({number} to {number}\)", cells[2]).groups()
        expected = [floor[key] for key in ("mean", "low", "high")]
        np.testing.assert_allclose([*map(float, numbers)], expected, 0.1)
        assert float(cells[3]) == pytest.approx(floor["p_value"], rel=0.05)
        # 21 real and 20 generated clips of 6 frames in 128 dimensions, and without frames in 20.
        assert (cells[0], cells[4], cells[5]) == (name, "-", "21 / 20")
        assert result["fd_infinity"] is None
        assert computed[i]["source"]["weights_sha256"] in written.text
    frames, dynamics = written.results
    assert min(frames["along"]["distances"][4:]) > 2 * max(frames["along"]["distances"][:4])
    assert "The clips begin to differ at frame 5, and differ to their end." in told[0]
    assert len(dynamics["along"]["distances"]) == 2
    assert "looks at all 6 frames of the clip" in written.text
    assert "looks at the first 5 frames of the clip only" in written.text
    assert "21 real and 20 generated samples" in written.text
    assert "20 samples for" in written.text


def test_names_are_escaped(written):
    assert "fake &amp; &lt;b&gt;/damaged.npy</code>: " in written.text
    assert "<b>" not in written.text
    assert "& " not in written.text


def test_severity(written):
    without = page.page(written.findings, "real", "fake")
    names = ",".join(one.protocol.name for one in written.findings)
    assert f"<code>srvp-fd-jax severity real --protocol {names}</code>" in without
    texts = ("as far as a blur of σ = 2.1 pixels", "as far as <noise>")
    severity = tuple(Standing("blur", "at", 2.1, text) for text in texts)
    first, second = written.findings
    text = page.page([first._replace(severity=severity), second], "real", "fake")
    assert "<li>as far as a blur of σ = 2.1 pixels</li>\n<li>as far as &lt;noise&gt;</li>" in text
    assert "srvp-fd-jax severity" not in text


def test_no_curve_of_features_that_look_at_all_frames(written):
    text = page.page([one._replace(along=None) for one in written.findings], "real", "fake")
    assert text.count("There is no curve: the features look at all 6 frames") == 2
    assert text.count("<svg") == 4


def test_numbers_of_a_sample_are_told_as_such(written):
    first, second = written.findings
    assert "a random sample of" not in written.text
    few = first._replace(floor=first.floor._replace(real=10, fake=11, distance=77.0))
    text = page.page([few, second], "real", "fake")
    told = f"{PROTOCOLS[0]}: interval, floor and p-value are those of a random sample of 10 real "
    assert re.findall(rf"{told}and 11 generated clips, whose distance is 77.\d*\.", text)


@pytest.mark.filterwarnings("ignore:.*(samples|could not be read)")
def test_folder_gets_images(sides, tmp_path):
    report(*sides, PROTOCOLS[1], f"{tmp_path}/r/")
    kinds = ["floor", "along", "curve", "clips_real", "clips_generated", "nearest"]
    names = [f"srvp_digits_dynamics_{kind}.png" for kind in kinds]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(names)
    assert all((tmp_path / "r" / name).read_bytes()[:4] == b"\x89PNG" for name in names)


@pytest.mark.parametrize("name", ["r.pdf", "r", "r.htm", "file", "file/"])
def test_outputs_of_other_kinds_are_refused(sides, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output: got .*, expected a name \*.html, an existing"):
        report(*sides, None, f"{tmp_path}/{name}")


@pytest.mark.parametrize(("name", "message"), [("a.html", "is a folder"), ("b/r.html", "b")])
def test_outputs_that_cannot_be_written_are_told_before_the_work(sides, tmp_path, name, message):
    (tmp_path / "a.html").mkdir()
    (tmp_path / "b").touch()
    fail = lambda *_: pytest.fail("a video was read")  # noqa: E731
    with pytest.raises(OSError, match=message):
        report(*sides, PROTOCOLS[1], tmp_path / name, on_progress=fail)


def test_errors(sides, tmp_path, monkeypatch):
    output = tmp_path / "r.html"
    with pytest.raises(ValueError, match="fake: got statistics, a report needs the videos"):
        report(sides[0], FeatureStatistics.empty(4), None, output)
    few = moving_digits(np.random.default_rng(0), 3, 6)
    with pytest.raises(ValueError, match="real: got 3 clips, expected at least 4"):
        report(few, few, PROTOCOLS[1], output)
    for module in ("matplotlib", "jinja2", "PIL"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ModuleNotFoundError, match=f'{module} .*needs the extra "report"'):
                report(*sides, None, output)
    assert not output.exists()


@pytest.mark.filterwarnings("ignore:.*(samples|could not be read)")
def test_a_report_is_the_same_bytes_for_the_same_videos(sides, written, tmp_path):
    output = tmp_path / "again.html"
    report(*sides, PROTOCOLS, output)
    assert output.read_text() == page.page(written.findings, *sides)
