"""How to train: epochs, optimiser, schedule, augmentation, precision."""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from torch import Tensor

from kdbench.methods.method import Facts
from kdbench.methods.registry import Registry

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
MOMENTUM, WARMUP = 0.9, 0.3


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    epochs: Count
    batch: Count = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.05
    lr_of: dict[str, Positive] = {}  # by network, for those that need another one
    momentum: Annotated[float, Meta(ge=0, lt=1)] = MOMENTUM  # of SGD; onecycle sets its own, as in torch
    weight_decay: NotNegative = 5e-4  # on every parameter, including norms, biases and adapters
    schedule: Literal["steps", "onecycle", "constant"] = "steps"
    milestones: tuple[Count, ...] = ()  # steps: the epochs after which lr is multiplied by 0.1
    warmup: Annotated[float, Meta(gt=0, lt=1)] = WARMUP  # onecycle: the share of steps in which lr rises to its peak
    augment: bool = True  # with the data set's crop and flip
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: in the networks; losses and weights stay in fp32

    def __post_init__(self) -> None:
        """Check values. An unused field must have its default; otherwise equal runs would have different ids."""
        if self.schedule == "steps" and not self.milestones:
            msgspec.structs.force_setattr(self, "schedule", "constant")
        if self.milestones and self.schedule != "steps":
            raise ValueError(f"milestones must be empty with {self.schedule}, which has none, got {self.milestones}")
        if self.warmup != WARMUP and self.schedule != "onecycle":
            raise ValueError(f"warmup must be {WARMUP} with {self.schedule}, which has no warm-up, got {self.warmup}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must increase, got {self.milestones}")
        late = [epoch for epoch in self.milestones if epoch >= self.epochs]
        if late:
            raise ValueError(f"milestones must come before the last epoch, {self.epochs}, got {late[0]}")
        if self.momentum != MOMENTUM and (self.schedule == "onecycle" or self.optimizer == "adamw"):
            raise ValueError(
                f"momentum must be {MOMENTUM} with onecycle or adamw, which set their own, got {self.momentum}"
            )

    def for_network(self, name: str) -> "Recipe":
        """The recipe with this network's learning rate."""
        return msgspec.structs.replace(self, lr=self.lr_of.get(name, self.lr), lr_of={})

    def steps(self, images: int) -> int:
        """Steps per epoch; the last partial batch is kept."""
        return math.ceil(images / self.batch)

    def facts(self, classes: int, labels: Tensor) -> Facts:
        """The facts for a method about a run of this recipe on a training set with these labels."""
        return Facts(classes, labels, self.batch, self.steps(len(labels)), self.epochs)


RECIPES: Registry[Recipe] = Registry("recipe")

# The recipe of nearly every published CIFAR-100 table.
RECIPES.register("cifar-240")(
    Recipe(
        epochs=240,
        milestones=(150, 180, 210),
        lr_of={"MobileNetV2": 0.01, "ShuffleV1": 0.01, "ShuffleV2": 0.01},
    )
)
# A twelfth of cifar-240: enough to rank methods roughly on a laptop, too short to compare with published numbers.
# In fp32: most laptop processors have no instructions for bf16 and gain nothing from it.
RECIPES.register("cifar-short")(
    Recipe(epochs=20, schedule="onecycle", lr=0.1, lr_of={"MobileNetV2": 0.02, "ShuffleV1": 0.02, "ShuffleV2": 0.02})
)
# The recipe of the feature-only paper (Cooper et al. 2025); the learning rates are the peak rates of its networks.
RECIPES.register("feature-only")(
    Recipe(
        epochs=50,
        batch=128,
        optimizer="adamw",
        schedule="onecycle",
        lr=0.0075,
        lr_of={"fo_vgg11": 0.005, "fo_vgg19": 0.005, "fo_vit_ett": 1e-3, "fo_vit_b": 1e-4},
        weight_decay=0.01,
        augment=False,
    )
)
# One task of class-incremental learning on CIFAR-100, as published with DFCIL (Smith et al. 2021).
RECIPES.register("incremental-250")(
    Recipe(epochs=250, batch=128, lr=0.1, weight_decay=2e-4, milestones=(100, 150, 200))
)
# For the embedded digits; a cell takes seconds.
RECIPES.register("quick")(Recipe(epochs=40, batch=30, schedule="onecycle", lr=0.1))
