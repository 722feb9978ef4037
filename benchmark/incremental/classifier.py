"""A classifier with a growing number of classes."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain


@torch.no_grad()
def take_over(chain: Chain, weights: Mapping[str, Tensor]) -> Chain:
    """Copy the weights of the same network with fewer or more classes: those of shared classes and all other layers."""
    own = chain.state_dict()
    for key, theirs in weights.items():
        mine = own[key]
        if mine.shape == theirs.shape:
            mine.copy_(theirs)
        else:
            both = min(len(mine), len(theirs))
            mine[:both].copy_(theirs[:both])
    return chain


@torch.no_grad()
def align(classifier: nn.Module, old: int, seen: int) -> None:
    """Scale new classes' weights to the mean norm of the old classes' weights.

    The most recent classes are then no longer preferred (Zhao et al. 2020, "Maintaining Discrimination and Fairness in
    Class Incremental Learning").
    """
    assert isinstance(classifier, nn.Linear)
    length = classifier.weight.norm(dim=1)
    classifier.weight[old:seen] *= length[:old].mean() / length[old:seen].mean()


def balanced(labels: Tensor, classes: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy with a softmax that weights each class by its number of images in the task.

    This is "Balanced Meta-Softmax" (Ren et al. 2020). A class without images is left out, so without exemplars only the
    new classes compete.
    """
    share = labels.bincount(minlength=classes).log().to(device)
    return lambda logits, labels: F.cross_entropy(logits + share, labels)
