"""The checkpoint reader held to `torch.load`, and to its promises about other files."""

import collections
import io
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import _utils

from srvp_fd_jax.files import checkpoint
from srvp_fd_jax.files.checkpoint import read_state_dict

FORMATS = ["zip", "stream"]


def save(state, path, layout):
    torch.save(state, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def assert_same(arrays, state):
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        array, tensor = arrays[name], tensor.detach()
        assert f"torch.{array.dtype.name}" == str(tensor.dtype)
        assert array.shape == tuple(tensor.shape)
        assert not array.flags.writeable
        # As bytes, so that NaNs and types which torch cannot turn into NumPy's compare too.
        dense = tensor.clone(memory_format=torch.contiguous_format)
        assert array.tobytes() == bytes(dense.untyped_storage())


def rejection(path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


# Files that torch would not write: what `torch.save` does, with the parts in our hands.


class _Storage:
    def __init__(self, kind, key, numel):
        self.identity: tuple[object, ...] = ("storage", kind, key, "cpu", numel)


class _Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


def tensor_call(storage, offset, size, stride, *rest):
    hooks = collections.OrderedDict()
    return _Call(_utils._rebuild_tensor_v2, storage, offset, size, stride, False, hooks, *rest)


def dump(state, layout, protocol=2):
    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            end = (None,) if layout == "stream" else ()
            return obj.identity + end if isinstance(obj, _Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(state)
    return buffer.getvalue()


SYSTEM = {"protocol_version": 1001, "little_endian": True}


def assemble(
    path, layout, program, contents=(), system=SYSTEM, byteorder: bytes | None = b"little", **how
):
    """Writes the pickled dict `program` and the storages, given as (key, numel, bytes)."""
    if layout == "zip":
        with zipfile.ZipFile(path, "w", **how) as archive:
            archive.writestr("model/data.pkl", program)
            if byteorder is not None:
                archive.writestr("model/byteorder", byteorder)
            for key, _, content in contents:
                archive.writestr(f"model/data/{key}", content)
    else:
        heads = [0x1950A86A20F9469CFC6C, 1001, system]
        parts = [*(pickle.dumps(head, 2) for head in heads), program]
        parts.append(pickle.dumps([key for key, _, _ in contents], 2))
        parts += [struct.pack("<q", numel) + content for _, numel, content in contents]
        path.write_bytes(b"".join(parts))
    return path


@pytest.fixture(params=FORMATS)
def layout(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


# What torch writes.

DTYPES = """float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2
    float8_e5m2fnuz float8_e8m0fnu int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64
    complex128"""


@pytest.mark.parametrize("dtype", DTYPES.split())
def test_dtypes(path, layout, dtype):
    dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(256, (24 * dtype.itemsize,), generator=generator, dtype=torch.uint8)
    tensor = (raw % 2).bool() if dtype == torch.bool else raw.view(dtype)
    state = {"vector": tensor, "matrix": tensor.reshape(4, 6).T, "scalar": tensor[3]}
    assert_same(read_state_dict(save(state, path, layout)), state)


BASE = torch.arange(120, dtype=torch.float32)
VIEWS = {
    "scalar": BASE[7],
    "empty": BASE[:0],
    "empty middle": torch.empty(2, 0, 3),
    "empty with odd strides": BASE.as_strided((0, 3), (7, 5), 119),
    "transposed": BASE.reshape(10, 12).T,
    "permuted": BASE.reshape(2, 3, 4, 5).permute(2, 0, 3, 1),
    "channels last": BASE.reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "strided": BASE[3::7],
    "last": BASE[119:],
    "overlapping": BASE.as_strided((5, 4), (2, 1), 9),
    "diagonal": BASE[:100].reshape(10, 10).diagonal(),
    "expanded": BASE[5:8, None].expand(3, 6),
    "single element of any stride": BASE.as_strided((1, 2), (1 << 62, 1)),
    "64 dimensions": BASE.reshape((1,) * 63 + (120,)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(path, layout, name):
    state = {"view": VIEWS[name]}
    assert_same(read_state_dict(save(state, path, layout)), state)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_view(tmp_path_factory, data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    tensor = torch.arange(np.prod(shape), dtype=torch.int32).reshape(shape)
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    for axis, length in enumerate(tensor.shape):
        start = data.draw(st.integers(0, length))
        tensor = tensor[(slice(None),) * axis + (slice(start, None, data.draw(st.integers(1, 3))),)]
    path = tmp_path_factory.mktemp("view") / "model.pt"
    state = {"view": tensor}
    assert_same(read_state_dict(save(state, path, data.draw(st.sampled_from(FORMATS)))), state)


def test_an_expanded_tensor_is_not_written_out(path, layout):
    state = {"huge": torch.ones(1).expand(1 << 20, 1 << 20)}
    array = read_state_dict(save(state, path, layout))["huge"]
    assert array.shape == (1 << 20, 1 << 20)
    assert array.strides == (0, 0)
    assert array[-1, -1] == 1


def test_shared_storages_share_memory(path, layout):
    state = {"whole": BASE, "part": BASE[40:60], "apart": BASE.clone()}
    arrays = read_state_dict(save(state, path, layout))
    assert_same(arrays, state)
    assert np.shares_memory(arrays["whole"], arrays["part"])
    assert not np.shares_memory(arrays["whole"], arrays["apart"])


def module():
    torch.manual_seed(0)
    normalisation = torch.nn.BatchNorm2d(4)
    normalisation(torch.randn(2, 4, 3, 3))
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), normalisation, torch.nn.LSTM(4, 5))


def test_a_module(path, layout):
    state = module().state_dict()
    assert "_metadata" in vars(state)
    assert state["1.num_batches_tracked"] == 1
    save(state, path, layout)
    assert_same(read_state_dict(path), torch.load(path, weights_only=True))


def test_parameters(path, layout):
    state = dict(module().named_parameters())
    save(state, path, layout)
    assert_same(read_state_dict(path), torch.load(path, weights_only=True))


def test_data_parallel(path, layout):
    state = torch.nn.DataParallel(module()).state_dict()
    assert_same(read_state_dict(save(state, path, layout)), module().state_dict())


def test_the_prefix_stays_where_a_name_lacks_it(path, layout):
    state = {"module.weight": BASE, "weight": BASE}
    assert_same(read_state_dict(save(state, path, layout)), state)


@pytest.mark.parametrize("count", [0, 1, 2, 1200])
def test_counts(path, layout, count):
    # One item takes another opcode than two, 256 memos than 255, and 1000 items are a batch.
    state = {f"layer.{i}": BASE[i % 120] for i in range(count)}
    assert_same(read_state_dict(save(state, path, layout)), state)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_protocols(path, layout, protocol):
    state, legacy = module().state_dict(), layout == "stream"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert_same(read_state_dict(path), state)


def test_a_path_may_be_a_string(path):
    save({"a": BASE}, path, "zip")
    assert_same(read_state_dict(str(path)), {"a": BASE})


def test_the_oldest_rebuild_function(path, layout):
    storage = _Storage(torch.FloatStorage, "0", 120)
    call = _Call(_utils._rebuild_tensor, storage, 1, (3, 2), (4, 3))
    contents = [("0", 120, BASE.numpy().tobytes())]
    assemble(path, layout, dump({"a": call}, layout), contents)
    assert_same(read_state_dict(path), {"a": BASE.as_strided((3, 2), (4, 3), 1)})


def test_a_checkpoint_of_python_2(path):
    """There OrderedDict is pickled with a list of pairs, and str as bytes."""
    tensor = tensor_call(_Storage(torch.FloatStorage, "0", 120), 1, (3, 2), (4, 3))
    program = dump(_Call(collections.OrderedDict, [["a", tensor]]), "stream")
    old = re.sub(rb"X(.)\0\0\0", rb"U\1", program)
    assert old != program
    assemble(path, "stream", old, [("0", 120, BASE.numpy().tobytes())])
    assert_same(read_state_dict(path), torch.load(path, weights_only=True))


def test_a_zip_file_without_byte_order(path):
    storage = _Storage(torch.FloatStorage, "0", 120)
    program = dump({"a": tensor_call(storage, 0, (120,), (1,))}, "zip")
    assemble(path, "zip", program, [("0", 120, BASE.numpy().tobytes())], byteorder=None)
    assert_same(read_state_dict(path), {"a": BASE})


def test_a_zip_file_without_checksums(path):
    torch.serialization.set_crc32_options(False)
    try:
        save({"a": BASE}, path, "zip")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_state_dict(path), {"a": BASE})


def test_torch_is_not_imported(tmp_path):
    paths = [save({"a": BASE}, tmp_path / name, name) for name in FORMATS]
    program = (
        "import sys; from srvp_fd_jax.files.checkpoint import read_state_dict as read;"
        "print(*(read(path)['a'].sum() for path in sys.argv[1:]), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, *paths]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=100
    )
    assert done.stdout.split() == ["7140.0", "7140.0", "False"]


# What is a checkpoint, but not of tensors by name.


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state_dict": {"a": BASE}, "epoch": 3}, "the str 'state_dict' holds dict"),
        ({"a": BASE, "epoch": 3}, "the str 'epoch' holds int"),
        ({"a": None}, "the str 'a' holds NoneType"),
        ({"a": [BASE]}, "the str 'a' holds list"),
        ({"a\nb": 1.5}, r"the str 'a\nb' holds float"),
        ({3: BASE}, "the int 3 holds Tensor"),
        ({(1, 2): BASE}, "a dict has a key of type tuple"),
        (BASE, "holds Tensor; allowed is a dict of tensors by name"),
        ([BASE], "holds list; allowed"),
        (3, "holds int; allowed"),
        ("text", "holds str; allowed"),
        ({"a": BASE.double().to_sparse()}, "'torch._utils._rebuild_sparse_tensor'"),
        ({"a": torch.zeros(8, dtype=torch.uint8).view(torch.complex32)}, "'torch.complex32'"),
        ({"a": torch.zeros(2, dtype=torch.complex64).conj()}, "conj or neg bit"),
        ({"a": torch.zeros(2, dtype=torch.complex64).conj().imag}, "conj or neg bit"),
        ({"a": torch.zeros(2).to("meta")}, "_rebuild_meta_tensor_no_storage"),
        ({"a": torch.float32}, "'torch.float32'"),
        ({"a": np.zeros(2)}, "numpy"),
        ({"a": np.float32(0)}, "numpy"),
    ],
)
def test_other_contents(path, layout, state, message):
    assert message in rejection(save(state, path, layout))


@pytest.mark.filterwarnings("ignore")  # of quantisation in torch, which is deprecated
def test_quantised(path, layout):
    state = {"a": torch.quantize_per_tensor(BASE, 0.1, 0, torch.quint8)}
    assert "'torch.QUInt8Storage'" in rejection(save(state, path, layout)) or (
        "'torch._utils._rebuild_qtensor'" in rejection(path)
    )


def test_an_optimiser_beside_the_state_dict_is_named(path, layout):
    # Adam's, as `torch.optim` writes it.
    moments = {"step": torch.tensor(1.0), "exp_avg": BASE, "exp_avg_sq": BASE}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "fused": None, "params": [0, 1]}
    optimiser = {"state": {0: moments, 1: moments}, "param_groups": [group]}
    state = {"optimizer": optimiser, "model": module().state_dict(), "loss": 0.5}
    assert "the str 'optimizer' holds dict" in rejection(save(state, path, layout))


def test_a_zip_file_of_big_endian(path):
    assert "b'big'" in rejection(assemble(path, "zip", dump({}, "zip"), byteorder=b"big"))


@pytest.mark.parametrize("system", [{"little_endian": False}, {}, 3], ids=str)
def test_a_stream_that_is_not_said_to_be_little_endian(path, system):
    message = rejection(assemble(path, "stream", dump({}, "stream"), system=system))
    assert "little-endian" in message


# What is no checkpoint.


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), r"it begins with b'\x89PNG"),
        (b"PK", "it begins with b'PK'"),
        (b"two lines\nof text\n", "it begins with b'two line'"),
        (struct.pack("<Q", 2) + b"{}", "it begins with"),  # safetensors
        (npz(), "without the entry 'data.pkl'"),
        (pickle.dumps({"a": 1}, 2), "without the magic number"),
        (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2),
            "the magic number and ve",
        ),
        (pickle.dumps({"a": 1}, 4), "without the magic number"),
        (pickle.dumps([1.5], 0), "it begins with"),
        (b"\x80", "damaged"),
        (b"\x80\x02", "it has no end"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02\xff", r"the opcode b'\xff'"),
    ],
)
def test_foreign_files(path, content, message):
    path.write_bytes(content)
    assert message in rejection(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        read_state_dict(path)


# What would run code.


@pytest.mark.parametrize("inside", ["zip", "stream", "bare", "head"])
@pytest.mark.parametrize("place", [lambda call: call, lambda call: {"a": call}])
def test_nothing_is_run(path, tmp_path, inside, place):
    marker = tmp_path / "marker"
    state = place(_Call(os.system, f"touch {marker}"))
    program = dump(state, inside)
    if inside == "bare":
        path.write_bytes(program)
    elif inside == "head":
        assemble(path, "stream", dump({}, "stream"), system=state)
    else:
        assemble(path, inside, program)
    assert f"'{os.name}.system'" in rejection(path)
    assert not marker.exists()
    # The pickle is a working one, else this would show nothing.
    pickle.loads(program)
    assert marker.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, torch.load, torch.Tensor, np.array, _Call]
)
def test_no_other_name_is_resolved(path, layout, function):
    program = dump({"a": function}, layout)
    assert "it asks for '" in rejection(assemble(path, layout, program))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85\x81.",  # NEWOBJ
        b"\x80\x02(X\x04\x00\x00\x00trueiposix\nsystem\n.",  # INST
        b"\x80\x02(cposix\nsystem\nX\x04\x00\x00\x00trueo.",  # OBJ
        b"\x80\x04X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02Pposix\n.",  # PERSID
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # a known name, another opcode
        b"\x80\x02X\x01\x00\x00\x00a)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nNNN\x87R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00K\x00K\x00NNtR.",
        b"\x80\x02}(X\x01\x00\x00\x00au.",  # a key without a value
        b"\x80\x02)X\x01\x00\x00\x00aNs.",  # an item of a tuple
        b"\x80\x02)Na.",
        b"\x80\x02X\x07\x00\x00\x00storageQ.",
        b"\x80\x02(X\x07\x00\x00\x00storageN}N]tQ.",
    ],
)
def test_other_ways_of_the_pickle(path, layout, program):
    rejection(assemble(path, layout, program))


# What does not add up.

FLOATS = ("0", 6, np.arange(6, dtype="<f4").tobytes())


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (6, (), ()),
        (6, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (3,), (3,)),
        (5, (1, 2), (1, 1)),
        (2**61, (2,), (1,)),
        (2**62, (1,), (1,)),
        (0, (2,), (2**62,)),
        (0, (2**62,), (1,)),
        (0, (2**31, 2**31), (0, 1)),
    ],
)
def test_tensors_outside_their_storage(path, layout, offset, size, stride):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), offset, size, stride)
    message = rejection(assemble(path, layout, dump({"a": call}, layout), [FLOATS]))
    assert "does not lie inside its storage of 24 bytes" in message


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (-2, -2), (1, 1)),
        (0, (0, -1), (1, 1)),
        # Within the storage, yet more than an array can count.
        (0, (2**31, 2**31, 2), (0, 0, 0)),
        (0, (2**64,), (0,)),
        (0, (0, 2**63), (1, 1)),
        (0, (2**2000,), (0,)),
        (2**64, (), ()),
        (0, (2,), (2**64,)),
        (True, (2,), (1,)),
        (0, (True,), (1,)),
        (0, (2,), (True,)),
        (0, (1,) * 65, (1,) * 65),
        (0, (2, 3), (1,)),
        (0, (2,), ()),
        (0, [2], [1]),
        (0, 2, 1),
        (0, (2.0,), (1,)),
        (0, ("2",), (1,)),
        (0, (2,), ((1,),)),
        (None, (2,), (1,)),
        (0.0, (2,), (1,)),
    ],
)
def test_tensors_of_impossible_sizes(path, layout, offset, size, stride):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), offset, size, stride)
    rejection(assemble(path, layout, dump({"a": call}, layout), [FLOATS]))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (6,), (1,)), (5, (1,), (9,)), (1, (2, 3), (2, 1)), (5, (), ())],
)
def test_tensors_that_just_fit(path, layout, offset, size, stride):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), offset, size, stride)
    assemble(path, layout, dump({"a": call}, layout), [FLOATS])
    expected = torch.arange(6.0).as_strided(size, stride, offset)
    assert_same(read_state_dict(path), {"a": expected})


class _Built(_Call):
    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"state": 1})


def test_a_tensor_with_a_state(path, layout):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), 0, (6,), (1,))
    built = _Built(call.function, *call.arguments)
    rejection(assemble(path, layout, dump({"a": built}, layout), [FLOATS]))


def test_a_type_that_is_none(path, layout):
    storage = _Storage(torch.storage.UntypedStorage, "0", 6)
    call = _Call(_utils._rebuild_tensor_v3, storage, 0, (1,), (1,), False, {}, 4)
    rejection(assemble(path, layout, dump({"a": call}, layout), [FLOATS]))


def test_a_wider_type_than_its_untyped_storage_holds(path, layout):
    storage = _Storage(torch.storage.UntypedStorage, "0", 6)
    program = {
        count: dump(
            {
                "a": _Call(
                    _utils._rebuild_tensor_v3,
                    storage,
                    0,
                    (count,),
                    (1,),
                    False,
                    {},
                    torch.uint32,
                )
            },
            layout,
        )
        for count in (1, 2)
    }
    contents = [("0", 6, bytes(range(6)))]
    array = read_state_dict(assemble(path, layout, program[1], contents))["a"]
    assert array.tolist() == [0x03020100]
    message = rejection(assemble(path, layout, program[2], contents))
    assert "does not lie inside its storage of 6 bytes" in message


@pytest.mark.parametrize(
    "numel", [True, 5, 7, 0, -6, 2**31, 2**61, 2**63, 2**2000, 6.0, "6", None, (6,)]
)
def test_storages_of_another_size(path, layout, numel):
    call = tensor_call(_Storage(torch.FloatStorage, "0", numel), 0, (0,), (1,))
    rejection(assemble(path, layout, dump({"a": call}, layout), [FLOATS]))


@pytest.mark.parametrize("numel", [5, 7, -6, 2**61, 2**62 + 6])
def test_a_stream_that_says_another_size(path, numel):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), 0, (6,), (1,))
    program = dump({"a": call}, "stream")
    message = rejection(assemble(path, "stream", program, [("0", numel, FLOATS[2])]))
    assert "a storage has" in message


@pytest.mark.parametrize("numels", [(6, 60), (60, 6)])
def test_a_storage_of_two_sizes(path, layout, numels):
    # Whichever is read, one of the tensors was checked against the other.
    calls = {
        f"a{numel}": tensor_call(_Storage(torch.FloatStorage, "0", numel), numel - 1, (), ())
        for numel in numels
    }
    rejection(assemble(path, layout, dump(calls, layout), [FLOATS]))


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "0"], ["0", "1"], [0], [["0"]], "0", None])
def test_a_stream_with_other_storages(path, keys):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), 0, (6,), (1,))
    assemble(path, "stream", dump({"a": call}, "stream"))
    content = path.read_bytes().removesuffix(pickle.dumps([], 2))
    path.write_bytes(content + pickle.dumps(keys, 2) + struct.pack("<q", 6) + FLOATS[2])
    assert "the list of storages" in rejection(path)


@pytest.mark.parametrize(
    "identity",
    [
        3,
        (),
        ("module", 1, "0", "cpu", 6),
        ("storage", 1, "0", "cpu", 6),
        ("storage", torch.FloatStorage, [], "cpu", 6),
        ("storage", torch.FloatStorage, "0", "cpu"),
    ],
)
def test_other_persistent_ids(path, layout, identity):
    storage = _Storage(torch.FloatStorage, "0", 6)
    storage.identity = identity
    call = tensor_call(storage, 0, (6,), (1,))

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return identity if obj is storage else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": call})
    rejection(assemble(path, layout, buffer.getvalue(), [FLOATS]))


def test_a_view_of_a_storage(path):
    storage = _Storage(torch.FloatStorage, "0", 6)
    storage.identity += (("1", 2, 2),)
    call = tensor_call(storage, 0, (2,), (1,))
    rejection(assemble(path, "stream", dump({"a": call}, "zip"), [FLOATS]))


def test_damaged_zip_entries(path):
    save({"weight": BASE}, path, "zip")
    content = bytearray(path.read_bytes())
    content[content.index(BASE.numpy().tobytes()) + 17] ^= 4
    path.write_bytes(content)
    assert "data/0" in rejection(path)


def test_missing_zip_entries(path):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 6), 0, (6,), (1,))
    program = dump({"a": call}, "zip")
    assert "without the entry 'data/0'" in rejection(assemble(path, "zip", program))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/0", FLOATS[2])
    assert "without the entry 'data.pkl'" in rejection(path)


def test_compressed_zip_entries(path):
    call = tensor_call(_Storage(torch.ByteStorage, "0", 1 << 24), 0, (1 << 24,), (1,))
    program = dump({"a": call}, "zip")
    assemble(path, "zip", program, [("0", 0, bytes(1 << 24))], compression=zipfile.ZIP_DEFLATED)
    assert "is compressed; torch.save only stores" in rejection(path)


HEADER, END = b"PK\1\2", b"PK\5\6"


@pytest.mark.parametrize(
    ("signature", "changes"),
    [
        (HEADER, {20: ("<II", 2**32 - 1, 2**32 - 1)}),
        (HEADER, {20: ("<II", 484, 484)}),
        (HEADER, {20: ("<II", 476, 476)}),
        (HEADER, {16: ("<III", 0, 476, 476)}),
        (HEADER, {10: ("<H", 8)}),
        (HEADER, {42: ("<I", 2**32 - 1)}),
        (HEADER, {16: ("<I", 0), 42: ("<I", 1)}),
        (HEADER, {0: ("<I", 0)}),
        (END, {12: ("<I", 2**32 - 1)}),
        (END, {12: ("<I", 0)}),
        (END, {0: ("<I", 0)}),
    ],
)
def test_a_zip_directory_that_is_wrong(path, signature, changes):
    call = tensor_call(_Storage(torch.FloatStorage, "0", 120), 0, (120,), (1,))
    contents = [("0", 120, BASE.numpy().tobytes())]
    assemble(path, "zip", dump({"a": call}, "zip"), contents, byteorder=None)
    content = bytearray(path.read_bytes())
    start = content.rindex(signature)
    for offset, (layout, *values) in changes.items():
        content[start + offset : start + offset + struct.calcsize(layout)] = struct.pack(
            layout, *values
        )
    path.write_bytes(content)
    rejection(path)


# What is broken, or built to break the reader: thousands of files, in bounded time and memory.


def outcome(path):
    """The arrays, or the message of the one error that is promised."""
    try:
        return read_state_dict(path)
    except ValueError as problem:
        message = str(problem)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message


def cost(path):
    """The outcome, the seconds, and the most memory that it took beyond the file's size."""
    tracemalloc.start()
    start = time.perf_counter()
    result = outcome(path)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, seconds, peak - path.stat().st_size


@pytest.fixture
def sample(path, layout):
    layers = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5))
    state = layers.state_dict()
    state["half"] = torch.nn.Parameter(torch.arange(40).reshape(8, 5).T.half())
    state["part"] = state["half"].detach()[1:3]
    state["new"] = torch.arange(3).to(torch.uint16)
    return save(state, path, layout).read_bytes()


def test_every_truncation_is_noticed(path, sample):
    for length in range(0, len(sample), 25):
        path.write_bytes(sample[:length])
        assert isinstance(outcome(path), str)


def flipped(sample):
    generator = random.Random(0)
    for position in range(0, len(sample), 12):
        damaged = bytearray(sample)
        damaged[position] ^= 1 << generator.randrange(8)
        yield damaged


@pytest.mark.parametrize("layout", ["zip"])
def test_a_flipped_bit_of_a_zip_file_is_noticed_or_does_no_harm(path, sample):
    whole, noticed = outcome(path), 0
    assert isinstance(whole, dict)
    for damaged in flipped(sample):
        path.write_bytes(damaged)
        result = outcome(path)
        noticed += isinstance(result, str)
        if not isinstance(result, str):
            assert result.keys() == whole.keys()
            for name, array in result.items():
                assert array.dtype == whole[name].dtype
                assert array.shape == whole[name].shape
                assert array.tobytes() == whole[name].tobytes()
    assert noticed > 100


@pytest.mark.parametrize("layout", ["stream"])
def test_a_flipped_bit_of_a_stream_is_an_error_or_another_dict(path, sample):
    # There are no checksums, so a flip among the elements makes other elements.
    kinds = collections.Counter()
    for damaged in flipped(sample):
        path.write_bytes(damaged)
        result = outcome(path)
        kinds[type(result)] += 1
        if not isinstance(result, str):
            assert all(isinstance(array, np.ndarray) for array in result.values())
    assert kinds.keys() == {str, dict}
    assert min(kinds.values()) > 20


def test_random_damage_costs_no_more_than_the_file(path, sample):
    generator = random.Random(0)
    for _ in range(100):
        damaged = bytearray(sample)
        for _ in range(generator.choice([1, 2, 4, 16])):
            start = generator.randrange(len(damaged))
            length = generator.choice([1, 4, 8, 100])
            damaged[start : start + length] = generator.choice(
                [generator.randbytes(length), b"\xff" * length, b"", b"(" * length]
            )
        path.write_bytes(damaged)
        outcome(path)


def test_the_head_of_a_stream_is_short(path):
    # Each of the pickles before the dict may take as long as it is.
    path.write_bytes(b"\x80\x02" + b"N" * 5_000 + b".")
    assert "it has no end" in rejection(path)


def test_storages_that_claim_more_than_the_file(path, layout):
    # Each one fits, as many entries of a zip file could lie on the same bytes.
    calls = {
        str(key): tensor_call(_Storage(torch.FloatStorage, str(key), 1 << 16), 0, (1,), (1,))
        for key in range(100)
    }
    assemble(path, layout, dump(calls, layout), [("0", 1 << 16, bytes(1 << 18))])
    result, seconds, memory = cost(path)
    assert "its storages claim 26214400 bytes; the file has only" in result
    assert memory < 2 << 20
    assert seconds < 5


def text(length):
    return b"X" + struct.pack("<I", length) + b"a" * length


LIMIT = 1 << 14  # of the tables, in place of the module's own; beyond it the files are cut
DEEP = LIMIT - 1000
COUNT = DEEP // 2
FLOAT_STORAGE = b"(" + text(7).replace(b"a" * 7, b"storage") + b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor\nq\x00"
SIZES = (
    FLOAT_STORAGE + text(1) + text(1) + b"K\x00tQq\x02(%bq\x03" + b"h\x03" * 63 + b"tq\x04"
    b"(h\x02K\x00h\x04h\x04tq\x05"
)
ASK = b"h\x00h\x05R"

HOSTILE = {
    "a memo of gigabytes": b"Nr\xff\xff\xff\xff",
    "a string of gigabytes": b"X\xff\xff\xff\xff" + b"a" * 100,
    "bytes of exabytes": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "a byte array of exabytes": b"\x96" + b"\xff" * 7 + b"\x7f",
    "an integer of gigabytes": b"\x8b\xff\xff\xff\x7f",
    "a frame of exabytes": b"\x95" + b"\xff" * 8 + b"N",
    "a name of a MiB": b"c" + b"a" * (1 << 20),
    "marks": b"(" * (1 << 20),
    "nested tuples": b")" + b"\x85" * DEEP,
    "a list in itself": b"]q\x00h\x00a",
    "a tuple that doubles": b")" + b"q\x00h\x00\x86" * 3_000,
    # The hash of a tuple nested a million times overflows the C stack.
    "nested tuples as a key": b"})" + b"\x85" * DEEP + b"Ns",
    # Equal hashes make a dict of n keys take n² steps.
    "keys that collide": b"}"
    + b"".join(b"\x8a\x09" + ((2**61 - 1) * i).to_bytes(9, "little") + b"Ns" for i in (1, 2)),
    "a long key, often": b"}" + text(COUNT) + b"q\x00Ns" + b"h\x00Ns" * 1_500,
    # Were the arguments copied or checked one by one, n calls with n of them would take n² steps.
    "a long tuple to rebuild from": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + b"K\x00" * COUNT
    + b"tR",
    "a dict of many from a name": b"ccollections\nOrderedDict\nq\x00("
    + b"X\x01\x00\x00\x00aN\x86" * 1000
    + b"l\x85q\x01"
    + b"h\x00h\x01R" * 1000,
    # Five bytes that ask for a tensor again, of 64 sizes that take long to multiply.
    "tensors of large integers": REBUILD + SIZES % (b"\x8a\xff" + b"\x01" * 255) + ASK * 300,
    "tensors of the same arguments": REBUILD + SIZES % b"K\x00" + ASK * 300,
    "a long persistent id": FLOAT_STORAGE + b"K\x00" * COUNT + b"tQ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(path, layout, name, monkeypatch):
    monkeypatch.setattr(checkpoint, "_TABLE_LIMIT", LIMIT)
    program = HOSTILE[name] + b"."
    assemble(path, "zip", b"\x80\x02" + program)
    if layout == "stream":
        heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, SYSTEM)]
        path.write_bytes(b"".join([*heads, b"\x80\x02", program]))
    result, seconds, memory = cost(path)
    assert isinstance(result, str)
    assert memory < 8 << 20
    assert seconds < 5
