"""PyTorch's I3D as cd-fvd has it, with TensorFlow's eps, and the real weights for both."""

import numpy as np
import torch
from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d

BRANCHES = {
    "branch_0": "b0",
    "branch_1a": "b1a",
    "branch_1b": "b1b",
    "branch_2a": "b2a",
    "branch_2b": "b2b",
    "branch_3b": "b3b",
}
STEM = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
PARAMETERS = {
    "kernel": "conv3d.weight",
    "norm.bias": "bn.bias",
    "norm.mean": "bn.running_mean",
    "norm.var": "bn.running_var",
}


def state_dict(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our arrays under the names and in the layout of the PyTorch ports."""
    state = {}
    for name, array in arrays.items():
        layer, _, parameter = name.partition(".")
        if layer == "logits":
            key = {"kernel": "logits.conv3d.weight", "bias": "logits.conv3d.bias"}[parameter]
            array = array.T[:, :, None, None, None] if parameter == "kernel" else array
        elif layer in STEM:
            key = f"{STEM[layer]}.{PARAMETERS[parameter]}"
        else:
            i, branch, parameter = parameter.split(".", 2)
            endpoint = f"Mixed_{layer[-1]}{'bcdef'[int(i)]}"
            key = f"{endpoint}.{BRANCHES[branch]}.{PARAMETERS[parameter]}"
        if array.ndim == 5 and layer != "logits":
            array = array.transpose(4, 3, 0, 1, 2)
        state[key] = torch.from_numpy(np.array(array))
        if key.endswith("bn.bias"):
            state[key.replace("bias", "weight")] = torch.ones(array.shape)
            state[key.replace("bias", "num_batches_tracked")] = torch.tensor(0)
    return state


def torch_network(arrays: dict[str, np.ndarray], eps: float = 1e-3) -> InceptionI3d:
    """The port's network; it sets eps to 1e-5, TensorFlow's is 1e-3."""
    network = InceptionI3d(400, in_channels=3)
    network.load_state_dict(state_dict(arrays))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eps = eps
    return network.eval().to(memory_format=torch.channels_last_3d)


def torch_logits(network: InceptionI3d, clips: np.ndarray) -> np.ndarray:
    """Logits of clips [n, t, 224, 224, 3], which PyTorch takes less time for as they lie."""
    with torch.no_grad():
        return network(torch.from_numpy(clips).permute(0, 4, 1, 2, 3)).numpy()
