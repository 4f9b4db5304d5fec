"""Where every random number of a training comes from, and where its bits may be compared.

Nothing here draws randomness of its own: a seed is a function of what is trained, so that a
retrained shard meets the same numbers as one trained from scratch.
"""

import hashlib
import importlib.metadata
import os
import platform
from functools import cache

import rfc8785
import torch

THREADS = 1
_PACKAGES = ("numpy", "peft", "torch", "transformers", "xgboost-cpu")


def seed_for(base: str, *parts: int | str) -> int:
    """Derive the seed of one place of a training (a shard, a slice, an epoch).

    Args:
        base: the seed of the model version.
        parts: what names the place; numbers and words are kept apart (1 is not "1").

    Returns:
        A number of 63 bits: the head of SHA-256 over the canonical JSON of the arguments.
    """
    digest = hashlib.sha256(rfc8785.dumps([base, *parts])).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def deterministic() -> None:
    """Make this process compute the same bits every time.

    Call it once, before the first tensor: sums depend on the number of threads, and cuBLAS reads
    its workspace setting only when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    torch.backends.cudnn.benchmark = False


def device() -> str:
    """Return where this process trains, as torch names it: its first GPU, or else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def seed_noise(seed: int) -> None:
    """Seed what layers draw from, such as dropout, on the CPU and on a GPU if there is one.

    `torch.manual_seed` does the same, and looks at every kind of device first, which costs more
    than a short epoch of a small model.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@cache
def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _PACKAGES}


def environment() -> dict[str, str]:
    """Tell what the bits of a training depend on besides its data, recipe and seed."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        **_versions(),
    }


def environment_digest() -> str:
    """Digest `environment()`: SHA-256 of its canonical JSON (RFC 8785), in hex."""
    return hashlib.sha256(rfc8785.dumps(environment())).hexdigest()
