"""An ordinary implementation of distillation: the yardstick of ``make bench``, for nothing else.

It uses eager fp32, PIL images that torchvision's transforms augment one by one in two worker processes, the teacher at
every step, and torch's SGD. It computes no averages or accuracies, and does not wait for the device.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
TEMPERATURE, WEIGHT = 4.0, 0.9


class Pictures(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: np.ndarray[Any, Any], labels: list[int]) -> None:
        self.images, self.labels = images, labels  # (N, 32, 32, 3)
        self.augment = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.augment(Image.fromarray(self.images[row])), self.labels[row]


def loader(pictures: Pictures, batch: int, device: torch.device) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(pictures, batch, shuffle=True, num_workers=2, pin_memory=device.type == "cuda")


def steps(
    student: nn.Module, teacher: nn.Module, pictures: Pictures, batch: int, device: torch.device
) -> Iterator[None]:
    """Endless steps; each ``yield`` ends one."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False  # as is usual
    student.to(device).train()
    teacher.to(device).eval()
    optimizer = SGD(student.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
    while True:
        for images, labels in loader(pictures, batch, device):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.no_grad():
                taught = F.softmax(teacher(images) / TEMPERATURE, dim=1)
            logits = student(images)
            soft = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), taught, reduction="batchmean")
            loss = (1 - WEIGHT) * F.cross_entropy(logits, labels) + WEIGHT * TEMPERATURE**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield
