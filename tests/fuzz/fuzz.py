"""Damages files of every kind that the library reads, and watches how it takes them.

    python tests/fuzz/fuzz.py                             # 10⁵ cases, in ten minutes on two cores
    python tests/fuzz/fuzz.py --start 1234 --cases 1      # one of them again

Each case is a file that is made from its number alone: checkpoints of both of PyTorch's formats and
of I3D, converted weights, statistics (cd-fvd's too), archives, and media. They are damaged in their
bytes, and by their structure: in the opcodes of pickles and the headers of safetensors, with the
checksums of zip files made right again. Of what reads them only the errors that are documented may
come out, in one line; a file with a checksum gives what was written or an error; and no case may
take more than `SECONDS` or `MEMORY`. Processes of their own go through the cases, since one that
crashes, hangs or grows takes its process with it; the next begins behind it.
"""

import argparse
import collections
import dataclasses
import faulthandler
import functools
import io
import json
import mmap
import os
import pickle
import pickletools
import random
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy

if TYPE_CHECKING:
    from srvp_fd_jax.distances.provenance import VideoCounts
    from srvp_fd_jax.networks.base import Weights

SECONDS = 5.0
MEMORY = 1 << 30
_HARD_MEMORY = 4 << 30  # of addresses, beyond which an allocation fails
_NO_CASE = b"\xff" * 8

EVIL_INTS = (-1, 0, 1, 2, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64)


# Damage to bytes.


def damage(rng: random.Random, data: bytes) -> bytes:
    """The same with a few bits or stretches of it changed."""
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(damaged) + 1)
        length = rng.choice([1, 2, 4, 8, 100, 1000])
        match rng.randrange(8):
            case 0 | 1 if damaged:
                damaged[at % len(damaged)] ^= 1 << rng.randrange(8)
            case 2:
                size = rng.choice([1, 2, 4, 8])
                value = rng.choice(EVIL_INTS) % (1 << 8 * size)
                damaged[at : at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
            case 3:
                del damaged[at : at + length]
            case 4:
                damaged[at:at] = rng.randbytes(length)
            case 5:
                damaged[at : at + length] = rng.choice([b"\xff", b"\0", b"("]) * length
            case 6:
                other = rng.randrange(len(damaged) + 1)
                damaged[at : at + length] = damaged[other : other + length]
            case _ if rng.random() < 0.2:
                del damaged[at:]
    return bytes(damaged)


# Damage to structure.


def operations(program: bytes) -> list[bytes]:
    """The opcodes of a pickle, each with its argument."""
    starts = [at for _, _, at in pickletools.genops(program)]
    return [program[a:b] for a, b in zip(starts, [*starts[1:], len(program)], strict=True)]


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


EVIL_OPERATIONS = (
    *(b"\x8a" + bytes([9]) + (n % 2**64).to_bytes(9, "little") for n in EVIL_INTS),
    *(b"K" + bytes([n]) for n in (0, 1, 7, 255)),
    b"\x8a\xff" + b"\x01" * 255,
    *b"N . ( ) ] } \x85 \x86 \x87 \x88 \x89 a e s u t R Q b 0 2 \x81".split(),
    b"h\x00",
    b"h\x01",
    b"h\x05",
    b"q\x00",
    b"r\xff\xff\xff\xff",
    b"G" + struct.pack(">d", 1.5),
    b"cos\nsystem\n",
    b"\x94",
    b"\x93",
    b"\x96" + b"\xff" * 7 + b"\x7f",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nBFloat16Storage\n",
    b"ctorch\nfloat8_e4m3fn\n",
    b"ctorch._utils\n_rebuild_tensor\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    _text("a"),
    _text("0"),
    _text("storage"),
    _text("module.a"),
    b"X\xff\xff\xff\xff",
)


def damage_program(rng: random.Random, program: list[bytes]) -> bytes:
    """A pickle with a few of its opcodes replaced, repeated, moved or taken away."""
    damaged = list(program)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(max(1, len(damaged)))
        match rng.randrange(5 if damaged else 1):
            case 0 | 1:
                damaged[at : at + 1] = [rng.choice(EVIL_OPERATIONS)]
            case 2:
                damaged.insert(at, rng.choice(EVIL_OPERATIONS))
            case 3:
                other = rng.randrange(len(damaged))
                damaged[at:at] = damaged[other : other + rng.choice([1, 2, 5, 40])]
            case _:
                del damaged[at : at + rng.choice([1, 2, 5])]
    return b"".join(damaged)


def damage_json(rng: random.Random, value: object) -> object:
    """The same with one value in it replaced, renamed or taken away."""
    evil = (
        *EVIL_INTS,
        *(True, None, 1.5, 1e400, "", "0", "a" * 5000, "\ud800", "\x1b[31m\n", [], {}, [[]] * 50),
        *(
            "F32",
            "F64",
            "F16",
            "BF16",
            "F8_E4M3",
            "I8",
            "I64",
            "U8",
            "BOOL",
            "C64",
            "vgg",
            "9" * 99,
        ),
    )
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(10):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, rng.choice(["", "a", "\0", "x" * 3000, "\x1b[31m"]): value[key]}
            case _:
                return {**value, key: damage_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], damage_json(rng, value[at]), *value[at + 1 :]]
    return rng.choice(evil)


def damage_header(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, which is as long as its length says."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    for _ in range(rng.choice([1, 1, 2, 4])):
        header = damage_json(rng, header)
    text = json.dumps(header).encode()
    if rng.random() < 0.02:
        text = b'{"__metadata__":' + b'{"a":' * 100_000
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


# Samples, each made once in a process.


def in_memory(write: Callable[[io.BytesIO], object]) -> bytes:
    """What is written into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


@functools.cache
def small_state() -> tuple[bytes, bytes]:
    """A state dict of many types in both of PyTorch's formats."""
    import torch

    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {
        "weight": torch.randn(5, 4),
        "half": torch.arange(40).reshape(8, 5).T.half(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "count": torch.tensor(7),
        "new": torch.arange(3).to(torch.uint16),
    }
    state["part"] = state["half"][1:3]
    return torch_files(state)


def torch_files(state: dict[str, object]) -> tuple[bytes, bytes]:
    """A state dict as a zip file and as a stream."""
    import torch

    zipped = in_memory(lambda file: torch.save(state, file))
    stream = in_memory(lambda file: torch.save(state, file, _use_new_zipfile_serialization=False))
    return zipped, stream


def entries_of(archive: bytes) -> dict[str, bytes]:
    """What is in a zip file, by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zip_of(entries: dict[str, bytes]) -> bytes:
    """A zip file, whose checksums are right."""

    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name), content)

    return in_memory(write)


@functools.cache
def zip_parts(archive: bytes) -> tuple[str, list[bytes], dict[str, bytes]]:
    """Takes a checkpoint apart: the name of its pickle, the opcodes, and all entries."""
    entries = entries_of(archive)
    name = next(name for name in entries if name.endswith("data.pkl"))
    return name, operations(entries[name]), entries


@functools.cache
def stream_parts(stream: bytes) -> tuple[list[list[bytes]], bytes]:
    """Takes a checkpoint apart: the opcodes of its five pickles, and the bytes that follow."""
    file, programs = io.BytesIO(stream), []
    for _ in range(5):
        start = file.tell()
        collections.deque(pickletools.genops(file), maxlen=0)
        programs.append(operations(stream[start : file.tell()]))
    return programs, file.read()


def damaged_zip(rng: random.Random, archive: bytes) -> bytes:
    """A checkpoint with damage to its pickle, whose checksum is right, or to any byte."""
    if rng.random() < 0.4:
        return damage(rng, archive)
    name, program, entries = zip_parts(archive)
    if rng.random() < 0.8:
        return zip_of(entries | {name: damage_program(rng, program)})
    other = rng.choice(list(entries))
    return zip_of(entries | {other: damage(rng, entries[other])})


def damaged_pickle(rng: random.Random, pickled: bytes) -> bytes:
    """A pickle with damage to its opcodes, or to any byte."""
    if rng.random() < 0.4:
        return damage(rng, pickled)
    return damage_program(rng, operations(pickled))


def damaged_stream(rng: random.Random, stream: bytes) -> bytes:
    """A checkpoint with damage to the opcodes of its pickles, or to any byte."""
    if rng.random() < 0.4:
        return damage(rng, stream)
    programs, rest = stream_parts(stream)
    chosen = rng.choice([0, 1, 2, 3, 3, 3, 3, 3, 4])
    return b"".join(
        damage_program(rng, program) if i == chosen else b"".join(program)
        for i, program in enumerate(programs)
    ) + (rest if rng.random() < 0.9 else damage(rng, rest))


SRVP_CONFIG = {
    "archi": "dcgan",
    "nx": 64,
    "nc": 1,
    "nf": 2,
    "nhx": 4,
    "ny": 3,
    "nt_inf": 2,
    "nh_inf": 5,
    "nlayers_inf": 2,
    "skipco": False,
}


@functools.cache
def srvp_weights() -> "Weights":
    """Random weights of a network that is as small as they come."""
    from srvp_fd_jax.networks.base import Weights, parameter_shapes
    from srvp_fd_jax.networks.srvp.architecture import SRVPArchitecture

    rng = np.random.default_rng(0)
    architecture = SRVPArchitecture.from_config(SRVP_CONFIG)
    shapes = parameter_shapes(architecture)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Weights("mine", architecture, arrays, SRVP_CONFIG, "0" * 64)


@functools.cache
def srvp_state() -> tuple[bytes, bytes]:
    """The same in PyTorch's formats and under the authors' names."""
    import torch

    from srvp_fd_jax.networks.srvp import checkpoint

    state = {}
    for name, array in srvp_weights().arrays.items():
        turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state[checkpoint._torch_key(name, srvp_weights().architecture)] = torch.tensor(turned)
    return torch_files(state)


@functools.cache
def i3d_state() -> tuple[bytes, bytes]:
    """A state dict with the names and shapes of I3D, expanded from one number."""
    import torch

    from srvp_fd_jax.networks import i3d
    from srvp_fd_jax.networks.base import parameter_shapes

    shapes, one = parameter_shapes(i3d.I3DArchitecture()), torch.ones(())
    state = {"logits.conv3d.weight": one.expand(400, 1024, 1, 1, 1)}
    state["logits.conv3d.bias"] = one.expand(400)
    for name, _, torch_name in i3d._layers():
        kernel = shapes[f"{name}.kernel"]
        state[f"{torch_name}.conv3d.weight"] = one.expand(*kernel[:2:-1], *kernel[:3])
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{torch_name}.bn.{part}"] = one.expand(kernel[-1])
    return torch_files(state)


@functools.cache
def saved_weights() -> bytes:
    """A converted file of the small network."""
    from srvp_fd_jax.networks import weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        weights.save(srvp_weights(), path)
        return path.read_bytes()


SOURCE = (("ddof", "1"), ("network", "kth"), ("side", "real"))


@functools.cache
def saved_statistics() -> bytes:
    """Statistics of features of a mixture, with a sample."""
    from srvp_fd_jax import FeatureStatistics

    features = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    empty = FeatureStatistics.empty(4, mixture=True, sample=9, source=SOURCE)
    made = empty.update(features[0], variances=features[1] ** 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        dataclasses.replace(made, videos=of_videos()).save(path)
        return path.read_bytes()


def of_videos() -> "VideoCounts":
    """What became of the videos of these statistics."""
    from srvp_fd_jax.distances.provenance import VideoCounts

    return VideoCounts(33, 30, ("a.mp4", "b.mp4"), (("c.mp4", "no frames"),))


@functools.cache
def cd_fvd_statistics() -> bytes:
    """Statistics as cd-fvd keeps them."""
    features = np.random.default_rng(0).normal(size=(30, 4))
    entries = {"capture_mean_cov": True, "max_items": None, "num_items": 30, "all_features": []}
    sums = {"raw_mean": features.sum(axis=0), "raw_cov": features.T @ features}
    return pickle.dumps(entries | sums, protocol=4)


@functools.cache
def without_checksum(data: bytes) -> bytes:
    """A safetensors file as it was written before there were checksums."""
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:end])["__metadata__"]
    del metadata["content_sha256"]
    return safetensors.numpy.save(safetensors.numpy.load(data), metadata)


def damaged_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file, with a checksum or as one of before, damaged anywhere."""
    if rng.random() < 0.5:
        data = without_checksum(data)
    return damage(rng, data) if rng.random() < 0.5 else damage_header(rng, data)


@functools.cache
def clip() -> np.ndarray:
    """Frames that are small and not all alike."""
    return np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), np.uint8)


@functools.cache
def media() -> dict[str, bytes]:
    """A clip in every form that one file holds, by name."""
    import av
    from PIL import Image

    frames = [Image.fromarray(frame) for frame in clip()]
    first, *rest = frames
    files = {
        "a.npy": in_memory(lambda file: np.save(file, clip())),
        "a.npz": in_memory(lambda file: np.savez(file, a=clip(), b=np.arange(3))),
        "b.npz": in_memory(lambda file: np.savez_compressed(file, clip())),
        "a.gif": in_memory(lambda file: first.save(file, "GIF", save_all=True, append_images=rest)),
        "a.png": in_memory(lambda file: first.save(file, "PNG")),
        "a.jpg": in_memory(lambda file: first.save(file, "JPEG")),
        "a.webp": in_memory(lambda file: first.save(file, "WEBP")),
    }
    for name, codec in (
        ("a.mp4", "libx264"),
        ("b.mp4", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
        ("a.mkv", "mjpeg"),
        ("a.mov", "mjpeg"),
    ):
        file = io.BytesIO()
        with av.open(file, "w", format=_FORMATS.get(name[1:], name[2:])) as container:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = clip().shape[1:3]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in clip():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode())
        files[name] = file.getvalue()
    return files


_FORMATS = {".mkv": "matroska"}


@functools.cache
def archives() -> dict[str, bytes]:
    """Archives of a few of them."""
    chosen = {f"v/{name}": media()[name] for name in ("a.npy", "a.gif", "a.png", "a.jpg", "b.mp4")}

    def deflated(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in chosen.items():
                archive.writestr(name, content)

    def tar(file: io.BytesIO, kind: int) -> None:
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for name, content in chosen.items():
                info = tarfile.TarInfo(name if kind == tarfile.USTAR_FORMAT else name + "ü" * 90)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return {
        "stored.zip": zip_of(chosen),
        "deflated.zip": in_memory(deflated),
        "pax.tar": in_memory(lambda file: tar(file, tarfile.PAX_FORMAT)),
        "gnu.tar": in_memory(lambda file: tar(file, tarfile.GNU_FORMAT)),
        "ustar.tar": in_memory(lambda file: tar(file, tarfile.USTAR_FORMAT)),
    }


# What reads them, and what has to hold.


def check(holds: bool, what: str) -> None:
    """Raises where the library let something through that it should not."""
    if not holds:
        raise AssertionError(what)


def read_checkpoint(path: Path) -> None:
    from srvp_fd_jax.files.checkpoint import read_state_dict

    for array in read_state_dict(path).values():
        if array.nbytes < 1 << 20:
            array.tobytes()  # all that it claims to see


def read_srvp(path: Path) -> None:
    from srvp_fd_jax.networks.srvp.checkpoint import read_checkpoint

    _check_weights(read_checkpoint(path), path)


def read_i3d(path: Path) -> None:
    from srvp_fd_jax.networks.weights import load_weights

    _check_weights(load_weights("i3d", path), path)


def read_weights(path: Path) -> None:
    from srvp_fd_jax.files.atomic import CHECKSUM, read_safetensors
    from srvp_fd_jax.networks import weights

    loaded = weights.load(path)
    _check_weights(loaded, path)
    if CHECKSUM in read_safetensors(path, lambda metadata: None)[0]:
        same = all((loaded.arrays[k] == v).all() for k, v in srvp_weights().arrays.items())
        check(same and loaded.config == SRVP_CONFIG, "weights other than those that were saved")


def _check_weights(loaded: "Weights", path: Path) -> None:
    from srvp_fd_jax.networks import weights

    check({a.dtype for a in loaded.arrays.values()} == {np.dtype("f4")}, "not float32")
    again = path.with_name("again")
    weights.save(loaded, again)
    again.unlink()


def read_statistics(path: Path) -> None:
    from srvp_fd_jax import load_statistics
    from srvp_fd_jax.files.atomic import CHECKSUM, read_safetensors

    loaded = load_statistics(path)
    metadata, arrays = read_safetensors(path, lambda metadata: None)
    if CHECKSUM in metadata:
        expected = safetensors.numpy.load(saved_statistics())
        same = all((arrays[name] == array).all() for name, array in expected.items())
        same = same and loaded.source == SOURCE and loaded.videos == of_videos()
        check(same, "statistics other than those that were saved")


def read_cd_fvd(path: Path) -> None:
    from srvp_fd_jax import load_statistics

    loaded = load_statistics(path)
    check(loaded.count >= 2 and np.isfinite(loaded.factor).all(), "statistics of nothing")


def read_videos(path: Path) -> None:
    from srvp_fd_jax.protocols import find_protocol
    from srvp_fd_jax.videos.loading import _load
    from srvp_fd_jax.videos.sources import find_videos

    protocols = [find_protocol("tensorflow", frames=2)]
    for number, video in enumerate(find_videos(path)[:10]):
        loaded = _load(number, video, protocols, "real")
        if loaded.clips[0] is not None:
            check(loaded.clips[0].shape[0] == 2, f"a clip of the shape {loaded.clips[0].shape}")


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        weight: How many of them there are, of a hundred.
        make: Files by name, from a generator; the first is what is read, or else their folder.
        read: Reads one.
        errors: Those that may come out.
    """

    weight: int
    make: Callable[[random.Random], dict[str, bytes]]
    read: Callable[[Path], None]
    errors: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)


def make_srvp(rng: random.Random) -> dict[str, bytes]:
    zipped, stream = srvp_state()
    text, config = json.dumps(SRVP_CONFIG).encode(), rng.random() < 0.3
    if config:
        changed = json.dumps(damage_json(rng, SRVP_CONFIG)).encode()
        text = damage(rng, text) if rng.random() < 0.3 else changed
        text = b"[" * 100_000 if rng.random() < 0.02 else text
    model = rng.choice([zipped, stream])
    if not config or rng.random() < 0.2:
        model = damaged_zip(rng, zipped) if model is zipped else damaged_stream(rng, stream)
    return {"folder/config.json": text, "folder/model.pt": model}


def make_i3d(rng: random.Random) -> dict[str, bytes]:
    zipped, stream = i3d_state()
    if rng.random() < 0.5:
        return {"a.pt": damaged_zip(rng, zipped)}
    return {rng.choice(["a.pt", "a.pt", "a.ckpt"]): damaged_stream(rng, stream)}


def damaged_array(rng: random.Random) -> bytes:
    """An array file with another header, which is as long as its length says."""
    descr = rng.choice(
        ["|u1", "<f4", ">f4", "<f2", "<f8", "<f16", "<c8", "<i8", "|O", "<U7", "|V3"]
    )
    shape = tuple(rng.choice([1, 2, 3, 6, 32, 48, *EVIL_INTS]) for _ in range(rng.randrange(1, 6)))
    header = {"descr": descr, "fortran_order": rng.random() < 0.3, "shape": shape}
    text = repr(header if rng.random() < 0.7 else damage_json(rng, header)).encode(errors="replace")
    text = b"(" * 5000 if rng.random() < 0.02 else text[:60_000]
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text + b"\n" + clip().tobytes()


def damaged_media(rng: random.Random) -> tuple[str, bytes]:
    """A name, and a damaged clip of that kind or, seldom, of another."""
    name = rng.choice(list(media()))
    if name.endswith(".npy") and rng.random() < 0.7:
        return name, damaged_array(rng)
    data = damage(rng, media()[name])
    return rng.choice(list(media())) if rng.random() < 0.1 else name, data


EVIL_NAMES = ("9" * 5000, "a\n\x1b[31m", "../..", "/", "a/" * 2000, "\u202e", "__MACOSX", "é" * 200)


def make_media(rng: random.Random) -> dict[str, bytes]:
    name, data = damaged_media(rng)
    return {f"folder/{name}": data}  # where an array is one video, and not many


def make_archive(rng: random.Random) -> dict[str, bytes]:
    if rng.random() < 0.6:
        name = rng.choice(list(archives()))
        return {name: damage(rng, archives()[name])}
    entries = {}
    for _ in range(rng.randrange(1, 5)):
        name, data = damaged_media(rng)
        evil = f"{rng.choice(EVIL_NAMES)}/" if rng.random() < 0.2 else ""
        entries[f"{evil}{rng.randrange(5)}{name}"] = data
    return {"a.zip": zip_of(entries)}


KINDS = {
    "zip": Kind(20, lambda rng: {"a.pt": damaged_zip(rng, small_state()[0])}, read_checkpoint),
    "stream": Kind(20, lambda r: {"a.pt": damaged_stream(r, small_state()[1])}, read_checkpoint),
    "statistics": Kind(
        18, lambda rng: {"a": damaged_safetensors(rng, saved_statistics())}, read_statistics
    ),
    "cd_fvd": Kind(6, lambda rng: {"a.pkl": damaged_pickle(rng, cd_fvd_statistics())}, read_cd_fvd),
    "weights": Kind(15, lambda rng: {"a": damaged_safetensors(rng, saved_weights())}, read_weights),
    "srvp": Kind(9, make_srvp, read_srvp),
    "i3d": Kind(2, make_i3d, read_i3d),
    "media": Kind(8, make_media, read_videos, (ValueError, OSError)),
    "archive": Kind(8, make_archive, read_videos, (ValueError, OSError)),
}


# The processes that go through the cases, and the one that watches them.


def run_case(number: int, seed: int, kinds: list[str], folder: Path) -> tuple[str, str | None]:
    """Whether a file was read or refused, and what is wrong with how it was."""
    rng = random.Random(f"{seed} {number}")
    (name,) = rng.choices(kinds, [KINDS[kind].weight for kind in kinds])
    kind = KINDS[name]
    files = kind.make(rng)
    for file, content in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
    first = next(iter(files))
    path = folder / ("folder" if first.startswith("folder/") else first)
    outcome, wrong, begun = "read", None, time.perf_counter()
    try:
        kind.read(path)
    except kind.errors as error:
        outcome, message = "refused", str(error)
        # Of videos the command cuts and escapes what names and libraries bring along.
        if len(message) > 4000 or (kind.read != read_videos and not message.isprintable()):
            wrong = f"{len(message)} characters, {message[:300]!a}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error!s:.300}"
    if (seconds := time.perf_counter() - begun) > SECONDS:
        wrong = f"{seconds:.1f} s"
    if wrong is None:
        for file in files:
            (folder / file).unlink()
    return f"{name} {outcome}", wrong


def work(args: argparse.Namespace) -> None:
    """Goes through cases, and prints one line of JSON of each kind of outcome and each fault."""
    warnings.simplefilter("ignore")
    os.environ["JAX_PLATFORMS"] = "cpu"
    import srvp_fd_jax  # noqa: F401 (before memory is limited)

    if {"media", "archive"} & set(args.kinds):
        import av

        av.logging.set_level(None)
    with open(args.progress, "r+b") as file:
        progress = mmap.mmap(file.fileno(), 8)
    rng = random.Random(0)
    for kind in args.kinds:
        KINDS[kind].make(rng)  # samples
    status = Path("/proc/self/statm").read_text()
    limit = int(status.split()[0]) * mmap.PAGESIZE + _HARD_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes: collections.Counter[str] = collections.Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(args.start, args.start + args.cases, args.step):
        progress[:] = number.to_bytes(8, "little")
        # Ends the process also where it does not come out of a library.
        faulthandler.dump_traceback_later(SECONDS * 2, exit=True)
        folder = Path(args.folder) / str(number)
        folder.mkdir()
        outcome, wrong = run_case(number, args.seed, args.kinds, folder)
        outcomes[outcome] += 1
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if wrong is None and (after - before) * 1024 > MEMORY:
            wrong = f"{(after - before) >> 10} MiB"
        before = max(before, after) if wrong else before
        if wrong is None:
            for path in sorted(folder.glob("**/"), reverse=True):
                path.rmdir()
        else:
            print(json.dumps({"number": number, "kind": outcome, "wrong": wrong}), flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"outcomes": outcomes}), flush=True)


def watch(args: argparse.Namespace, folder: Path, first: int) -> tuple[dict[str, int], list[str]]:
    """Runs a process for every so manieth case, and another behind each case that ended it."""
    outcomes: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    progress = folder / f"progress-{first}"
    start, stop = args.start + first, args.start + args.cases
    while start < stop:
        progress.write_bytes(_NO_CASE)
        command = [sys.executable, __file__, "--progress", str(progress), "--folder", str(folder)]
        command += ["--seed", str(args.seed), "--kinds", ",".join(args.kinds)]
        numbers = {"--start": start, "--cases": stop - start, "--step": args.workers}
        command += [str(word) for option in numbers.items() for word in option]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            told = json.loads(line)
            outcomes.update(told.get("outcomes", {}))
            if "wrong" in told:
                faults.append(f"case {told['number']}, {told['kind']}: {told['wrong']}")
        if done.returncode == 0:
            break
        ended = f"ended its process ({done.returncode}): {done.stderr[-3000:]}"
        if (reached := progress.read_bytes()) == _NO_CASE:
            faults.append(f"the start {ended}")
            break
        number = int.from_bytes(reached, "little")
        faults.append(f"case {number} {ended}")
        start = number + args.workers
    return outcomes, faults


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.progress:
        work(args)
        return 0

    from concurrent.futures import ThreadPoolExecutor

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    with ThreadPoolExecutor(args.workers) as pool:
        results = list(pool.map(lambda first: watch(args, folder, first), range(args.workers)))
    outcomes = sum((collections.Counter(counts) for counts, _ in results), collections.Counter())
    faults = [fault for _, of_process in results for fault in of_process]
    for fault in faults:
        print(fault)
    if not faults:
        shutil.rmtree(folder)
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome}: {count}")
    print(f"{sum(outcomes.values())} cases, {len(faults)} faults" + f"; in {folder}" * bool(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
