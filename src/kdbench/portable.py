"""Settings for the same bits on every x86 processor with AVX2; they must be set before the libraries are loaded.

For this reason torch is imported only inside the function that needs it.
"""

import os
import sys

from kdbench.refusal import Refusal

# Only instructions that all these processors have. One thread, as the number of threads changes how sums are split.
# No GPU, because it rounds differently.
TOLD = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def compute_portably() -> None:
    """Apply the settings to this process and the processes that it starts."""
    os.environ.update(TOLD)
    if _instructions() != "AVX2":
        raise Refusal(f"--portable needs an x86 processor with AVX2, got one with {_instructions()}")


def start_again_portably() -> None:
    """Restart this command, because no library may be loaded before the settings."""
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"KDBENCH_PORTABLE": "1"})


def can_be_portable() -> bool:
    return _instructions() in ("AVX2", "AVX512")


def portable() -> bool:
    """Whether the settings are in effect, whatever set them."""
    return all(os.environ.get(name) == value for name, value in TOLD.items())


def _instructions() -> str:
    """torch's name for the instruction set that it uses."""
    from torch.backends.cpu import get_cpu_capability

    return get_cpu_capability()
