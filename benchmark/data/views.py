"""Augmentation on the images' device: a batch of bytes is cropped, flipped and normalised in one pass.

A view of an image is a number that encodes one of (2·crop + 1)² crops by (dy, dx) and a flip. The order and the views
of an epoch are drawn on the CPU from (seed, epoch) only. They are the same on every device and for every method.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.benchmark.data.dataset import Dataset, Images, Split, moves
from kdbench.benchmark.randomness import seed_torch, stream

GREY = 121  # close to the mean of CIFAR-100
ENDLESS = 2**31  # number of views, if a view is the seed of a random crop


def views_of_an_image(data: Dataset, augment: bool) -> int:
    if not augment:
        return 1
    return moves(data.crop, data.flip) if isinstance(data.train, Split) else ENDLESS


class Views:
    """The training images of a data set in any of their views."""

    def __init__(self, data: Dataset, augment: bool) -> None:
        assert isinstance(data.train, Split)
        images = data.train.images
        self.crop = data.crop if augment else 0
        self.flips = 2 if augment and data.flip else 1
        self.height, self.width = images.shape[2:]
        self.count = views_of_an_image(data, augment)
        # The bytes are padded with zeros before normalisation: with black, as in the field's recipe, not with the mean.
        padded = F.pad(images, [self.crop] * 4)
        self.windows = padded.unfold(2, self.height, 1).unfold(3, self.width, 1)  # (N, C, dy, dx, H, W), no copy
        self.normalise = Normalise(data, images.device)

    def bytes(self, index: Tensor, view: Tensor) -> Tensor:
        """The images at ``index``, each in its view, as bytes."""
        place, flip = view // self.flips, view % self.flips
        side = 2 * self.crop + 1
        cropped = self.windows[index, :, place // side, place % side]
        return torch.where(flip.bool()[:, None, None, None], cropped.flip(-1), cropped) if self.flips > 1 else cropped

    def shown(self, draws: Iterable["Draw"]) -> Iterator[tuple["Draw", Tensor]]:
        """Each step with its images as bytes."""
        return ((draw, self.bytes(draw.index, draw.view)) for draw in draws)


class Normalise:
    """Converts bytes to floats with mean 0 and standard deviation 1 per channel."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1) * 255
        self.scale = 1 / (torch.tensor(data.std, device=device).view(-1, 1, 1) * 255)

    def __call__(self, images: Tensor) -> Tensor:
        return (images - self.mean) * self.scale


def strong(images: Tensor, seed: int) -> Tensor:
    """Apply two RandAugment operations of random strength and a cutout to each image.

    This is the second view of multi-level distillation.
    """
    from torchvision.transforms import v2  # takes a second; few methods need it

    operation = v2.RandomChoice([v2.RandAugment(num_ops=1, magnitude=strength) for strength in range(31)])
    augment = v2.Compose([operation, operation, cutout])
    with torch.random.fork_rng([images.device] if images.is_cuda else []):  # of this GPU only, if there are several
        seed_torch(seed, images.device)
        return torch.stack([augment(image) for image in images])


def cutout(image: Tensor) -> Tensor:
    """Paint over a square of up to half the image's width, with its centre anywhere in the image.

    A square that crosses the upper or left edge is moved inside; at the other edges it is cut off. This follows the
    authors' code.
    """
    height, width = image.shape[1:]
    side, y, x = (torch.rand(3, dtype=torch.float64) * torch.tensor([width / 2, height, width])).tolist()
    top, left = (int(max(0, centre - side / 2)) for centre in (y, x))
    reach = int(side) + 1
    painted = image.clone()
    painted[:, top : top + reach, left : left + reach] = GREY
    return painted


@dataclass(frozen=True)
class Draw:
    """The images of one step, and their views."""

    step: int
    index: Tensor
    view: Tensor
    number: Tensor  # of each view among all views of all images; on the CPU, so a lookup does not wait for the device
    sizes: tuple[int, ...] = ()  # of the shares of all ranks; empty with a single rank


def draws(train: Images, views: int, batch: int, *seed: int | str, start: int = 0) -> Iterator[Draw]:
    """The steps of one epoch, from ``start`` on; each image occurs once, and the last partial batch is kept."""
    generator = torch.Generator().manual_seed(stream("epoch", *seed))
    order = torch.randperm(len(train), generator=generator)
    view = torch.randint(views, (len(train),), generator=generator)
    number = order * views + view
    order, view = order.to(train.labels.device), view.to(train.labels.device)
    for step, drawn in enumerate(zip(order.split(batch), view.split(batch), number.split(batch), strict=True)):
        if step >= start:
            yield Draw(step, *drawn)
