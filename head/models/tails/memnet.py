"""MemNet (Khosla et al., ICCV 2015) as a head: a whole AlexNet from pixels on, trained further, less a mean image.

What of it is known, and what was chosen, stands in docs/paper.md.
"""

import numpy as np
import torch
from torch import Tensor, nn

from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from head.data.batches import epoch_batches
from head.data.inputs import HeadInput
from head.models.amnet import HeadOutput
from head.models.tails.tail import TailHead, TailShape

NETWORKS = ("caffenet", "alexnet")
_AT_ONCE = 64


class MemNetHead(TailHead):
    """Score crops of views by AlexNet and a linear output on fc7, the mean image of the training views subtracted.

    The mean image takes the place of the mean colour that the network's weights expect: what they see is divided by
    their deviation all the same.
    """

    mean_image: Tensor

    def __init__(self, shape: TailShape) -> None:
        super().__init__(shape)
        for module in self.rest.modules():
            if isinstance(module, nn.Dropout):
                module.p = shape.dropout
        self.register_buffer("mean_image", self.rest.mean.repeat(shape.image_size, shape.image_size, 1))

    def set_mean_image(self, image: Tensor) -> None:
        """Fix the image (S, S, 3), from 0 to 255, that is subtracted from views before they are cut."""
        self.mean_image.copy_(image)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map pixels (B, S * S, 3) from 0 to 255 to a `HeadOutput` of one step without maps."""
        return super().forward(features - (self.mean_image - self.rest.mean).flatten(0, 1))


def mean_view(cache: FeatureCache, part: Part, *, source: HeadInput, seed: int) -> Tensor:
    """Return the mean (S, S, 3) float32 over one view of each image of a part, from 0 to 255."""
    batches = epoch_batches(part, views=cache.views, seed=seed, epoch=0, batch_size=_AT_ONCE)
    total = np.zeros((cache.recipe.image_size**2, 3))
    for pixels in source.batches(cache, [(rows, views) for rows, views, _ in batches]):
        total += pixels.numpy().sum(axis=0, dtype=np.float64)
    side = cache.recipe.image_size
    return torch.from_numpy(total / len(part.rows)).float().reshape(side, side, 3)
