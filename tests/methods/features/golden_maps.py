"""The golden entries that hold one map of each network for every stage."""

from torch import Tensor

from tests.conftest import Golden


def stages(golden: Golden) -> list[tuple[Tensor, Tensor]]:
    count = sum(key.split("/")[-1] in {f"s{stage}" for stage in range(9)} for key in golden.inputs)
    return [(golden[f"s{stage}"], golden[f"t{stage}"]) for stage in range(count)]
