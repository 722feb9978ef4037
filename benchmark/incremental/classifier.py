"""A classifier whose classes become more."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain


@torch.no_grad()
def take_over(chain: Chain, weights: Mapping[str, Tensor]) -> Chain:
    """The weights of the same network with fewer classes or with more: for the classes that both know, and all else."""
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
    """Scale new classes' weights so that they are as long, on average, as the old ones' (Zhao et al. 2020, "Maintaining
    Discrimination and Fairness in Class Incremental Learning"): the most recent classes are no longer preferred."""
    assert isinstance(classifier, nn.Linear)
    length = classifier.weight.norm(dim=1)
    classifier.weight[old:seen] *= length[:old].mean() / length[old:seen].mean()


def balanced(labels: Tensor, classes: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy behind a softmax in which each class counts as often as the task has images of it (Ren et al. 2020,
    "Balanced Meta-Softmax"). A class without any is left out: without exemplars, new classes compete among themselves.
    """
    share = labels.bincount(minlength=classes).log().to(device)
    return lambda logits, labels: F.cross_entropy(logits + share, labels)
