"""The same bits on every x86 processor with AVX2: what libraries are told before they are loaded.

torch is imported where it is asked, and not before: what it has been told it knows by then.
"""

import os
import sys

from kdbench.refusal import Refusal

# Of a processor's instructions those that all have; one thread, for how sums are split over threads depends on how many
# there are; and no GPU, which rounds in ways of its own.
TOLD = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def compute_portably() -> None:
    """From here on, in this process and those that it starts."""
    os.environ.update(TOLD)
    if _instructions() != "AVX2":
        raise Refusal(f"--portable needs an x86 processor with AVX2, got one with {_instructions()}")


def start_again_portably() -> None:
    """This command once more from its start, where no library is loaded yet."""
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"KDBENCH_PORTABLE": "1"})


def can_be_portable() -> bool:
    return _instructions() in ("AVX2", "AVX512")


def portable() -> bool:
    """Whether libraries were told so, by whomever."""
    return all(os.environ.get(name) == value for name, value in TOLD.items())


def _instructions() -> str:
    """As torch calls those that it uses."""
    from torch.backends.cpu import get_cpu_capability

    return get_cpu_capability()
