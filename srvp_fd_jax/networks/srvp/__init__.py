"""SRVP as a network: the models, their outputs and their published weights."""

import functools
from typing import Literal, get_args

from srvp_fd_jax.networks.base import Network
from srvp_fd_jax.networks.srvp.architecture import SRVPArchitecture
from srvp_fd_jax.networks.srvp.checkpoint import HUB_FOLDERS, download, read_checkpoint

OWN = "own"
"""Name of all SRVP models that users train themselves, see the folder training/."""

DATASETS = (*HUB_FOLDERS, "digits", OWN)
"""Names of the SRVP models: the authors' five, the small one in this package, and one's own."""

ComparisonType = Literal["frame", "static_content", "dynamics"]
"""Features to compare: the encodings, w or y₀."""

COMPARISON_TYPES: tuple[ComparisonType, ...] = get_args(ComparisonType)

_ATTRIBUTIONS = {
    **dict.fromkeys(
        HUB_FOLDERS,
        "SRVP, Franceschi, Delasalles, Chen, Lamprier, Gallinari, ICML 2020, arXiv 2002.09219, "
        "https://github.com/edouardelasalles/srvp",
    ),
    "digits": "srvp-fd-jax; trained on the UCI handwritten digits of E. Alpaydin and C. Kaynak "
    "(CC BY 4.0); not the SRVP authors' weights",
    OWN: "trained with srvp-fd-jax; not the SRVP authors' weights",
}

NETWORKS = {
    name: Network(
        SRVPArchitecture,
        find=None if name == OWN else functools.partial(download, name),
        read=read_checkpoint,
        published=True,
        attribution=attribution,
        licence="chosen by who trained it" if name == OWN else "Apache-2.0",
    )
    for name, attribution in _ATTRIBUTIONS.items()
}
