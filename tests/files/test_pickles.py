import pickle
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from srvp_fd_jax.files import pickles
from srvp_fd_jax.files.pickles import read_pickle


def of_numpy_1(data: bytes) -> bytes:
    """The pickle with the name that NumPy's module had before 2.0."""
    name = b"numpy._core.multiarray"
    old = name.replace(b"_core", b"core")
    # In one frame, whose length is not checked. Protocol 3 has no lengths of names.
    return data.replace(bytes([len(name)]) + name, bytes([len(old)]) + old).replace(name, old)


ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3),
    "in Fortran order": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "of every other": np.arange(12, dtype=np.float32)[::2],
    "empty": np.zeros((0, 4)),
    "without axes": np.array(2.5),
    "bool": np.array([True, False]),
    "large": np.arange(70_000, dtype=np.float16),
}
OTHERS = {"int": 3, "large": 1 << 40, "negative": -1, "float": 1.5, "none": None, "bool": True}
NESTED = {"a": {"b": [1, "text", (2, "é")], "c": {}}, "d": [], "e": b"bytes", "f": ()}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_is_read_is_what_was_pickled(protocol: int):
    assert read_pickle(pickle.dumps({**OTHERS, **NESTED}, protocol)) == {**OTHERS, **NESTED}
    again = ARRAYS["a"]
    data = pickle.dumps({**ARRAYS, "many": [again, again, np.ones(3)]}, protocol)
    for version in (data, of_numpy_1(data)):
        read = read_pickle(version)
        assert list(read) == [*ARRAYS, "many"]
        for name, array in ARRAYS.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)
        np.testing.assert_array_equal(read["many"][1], again)
        np.testing.assert_array_equal(read["many"][2], np.ones(3))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_of_the_fewest_bytes(protocol: int):
    arrays = [np.zeros(0) for _ in range(1000)]
    assert len(read_pickle(pickle.dumps(arrays, protocol))) == 1000


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_run(tmp_path: Path):
    data = pickle.dumps({"a": np.arange(3), "b": Touch(tmp_path / "was run")})
    with pytest.raises(
        ValueError, match=r"not a pickle of arrays .*: it asks for 'pathlib\.Path\.touch'"
    ):
        read_pickle(data)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, None]),
        np.array(["text"]),
        np.zeros(3, np.complex64),
        np.zeros(2, [("a", "f4")]),
        np.zeros(3, "M8[s]"),
        np.zeros(3, ">f4"),
        np.float64(3),
        np.ma.zeros(3),
        {1, 2},
        {(1, 2): 3},
        subprocess.run,
    ],
)
@pytest.mark.parametrize("protocol", [4, 5])
def test_other_values_are_refused(value: object, protocol: int):
    with pytest.raises(ValueError, match="damaged, or not a pickle of arrays"):
        read_pickle(pickle.dumps({"a": value}, protocol))


def program(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def array(shape: bytes, content: bytes = b"B\x08\0\0\0" + bytes(8)) -> bytes:
    """The opcodes of an array of float64 with any shape and content."""
    name = text("numpy.core.multiarray") + text("_reconstruct") + b"\x93"
    made = name + text("numpy") + text("ndarray") + b"\x93" + b"K\0\x85" + b"C\x01b" + b"\x87R"
    dtype = text("numpy") + text("dtype") + b"\x93" + text("f8") + b"\x89\x88\x87R"
    state = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
    return made + b"(K\x01" + shape + dtype + state + b"b" + b"\x89" + content + b"tb"


def test_arrays_that_are_put_together():
    assert read_pickle(program(array(b"K\x01\x85"))) == [0.0]
    assert read_pickle(program(array(b"K\x01K\x01\x86"))).shape == (1, 1)


HUGE = b"\x8a\x08" + (1 << 60).to_bytes(8, "little")
NEGATIVE = b"J\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "data",
    [
        program(array(HUGE + b"\x85")),
        program(array(HUGE + HUGE + b"\x86")),
        program(array(NEGATIVE + b"\x85")),
        program(array(NEGATIVE + NEGATIVE + b"\x86")),
        program(array(b"G" + bytes(8) + b"\x85")),
        program(array(b"(" + b"K\x01" * 65 + b"t")),
        program(array(b"\x8a\xff" + b"\x7f" * 255 + b"\x85")),
        program(array(b"K\x01\x85", b"N")),
        program(array(b"K\x01\x85", b"]")),
        program(array(b"K\x01\x85", text("12345678"))),
        program(array(b"K\x01\x85", b"B\xff\xff\xff\xff")),
        program(b"\x8e" + b"\xff" * 7 + b"\x7f"),
        program(b"j\xff\xff\xff\x7f"),
        program(b"\x94"),
        program(),
        program(b"NN\x93"),
        program(b"NNR"),
        program(b"NNb"),
        program(b"NNa"),
        program(b"}(NN", b"Nu"),
        program(text("os") + text("a\nb\x1b") + b"\x93"),
        b"",
        b"\x80",
        b"not a pickle",
    ],
)
def test_damaged_and_hostile_pickles_are_refused(data: bytes):
    with pytest.raises(ValueError, match="damaged, or not a pickle of arrays") as caught:
        read_pickle(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_pickle_takes_no_more_memory_than_its_bytes_and_opcodes():
    million = pickle.dumps({"a": [np.zeros(1 << 17)] * 2}, 4)
    # The same bytes as an array a hundred times.
    part = b"K\x01\x85".replace(b"K\x01", b"J" + (1 << 17).to_bytes(4, "little"))
    content = b"B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20)
    reused = program(b"](", content, b"\x94", array(part, b"h\0") * 100, b"e")
    nested = program(b"N", b"\x85" * 20_000)
    tracemalloc.start()
    try:
        for data in (million, reused, nested):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            read_pickle(data)
            assert tracemalloc.get_traced_memory()[1] - before < 30 << 20
    finally:
        tracemalloc.stop()


def test_the_number_of_opcodes_is_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickles, "_MOST_READS", 1000)
    assert read_pickle(program(b"]", b"}" * 500)) == {}
    with pytest.raises(ValueError, match="more than 1000"):
        read_pickle(program(b"]", b"}" * 1000))


def test_cut_short_it_is_an_error_wherever_that_is():
    data = pickle.dumps({"a": np.arange(3.0), "b": 1}, 4)
    for length in range(len(data)):
        with pytest.raises(ValueError):  # noqa: PT011 (of several messages)
            read_pickle(data[:length])
