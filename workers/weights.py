"""Tensors to bytes and back, as safetensors: no pickle is ever written or loaded.

torch is imported inside the functions, so that a worker that never touches a tensor may import
this module. Where the bytes are kept is `workers.artifacts`' affair.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.core.errors import AppError

if TYPE_CHECKING:
    from torch import Tensor


class WeightsUnreadable(AppError):
    """The bytes are not a whole safetensors file."""

    slug = "weights-unreadable"
    advice = (
        "Register weights written by safetensors (`save_file`); a `.bin` or `.pt` file has to be "
        "converted first."
    )


def dump_tensors(tensors: Mapping[str, "Tensor"]) -> bytes:
    """Returns the tensors, of any shapes and devices, as safetensors without metadata.

    Equal names, shapes, dtypes and values give equal bytes, whatever the order of the names, the
    memory layout or the device. Tensors that share memory (tied weights) are written once each.
    """
    from safetensors.torch import save  # noqa: PLC0415 - torch is only for who needs it

    # safetensors refuses tensors that share storage, so each gets a dense storage of its own.
    dense = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return save(dense)


def load_tensors(data: bytes) -> dict[str, "Tensor"]:
    """Returns the tensors of `dump_tensors` on the CPU, by name in ascending order.

    Raises:
        WeightsUnreadable: the bytes are no safetensors file, or cut short.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - beside the next one
    from safetensors.torch import load  # noqa: PLC0415 - torch is only for who needs it

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WeightsUnreadable from error
    return {name: tensors[name] for name in sorted(tensors)}
