"""langwright doctor: what models run on here, and why so."""

import platform

import torch

from langwright import __version__
from langwright.base.console import print_json
from langwright.parts.native import native
from langwright.planning.machine import choose_device, device_name, free_memory, instruction_sets, read_bandwidth


def doctor(json: bool = False) -> None:
    """What this machine is, which kernels run on it and why, and how fast its memory is read.

    Kernels for weights of 16, 8 and 4 bits are built for the machine when they are first needed, which takes a compiler
    (g++) and some seconds, once; without one, PyTorch does everything, only slower. LANGWRIGHT_KERNELS=torch keeps to
    PyTorch.

    Args:
        json: print the result as JSON.
    """
    device, kernels, bandwidth = choose_device("auto"), native(), read_bandwidth()
    if kernels.library is None:
        path = "pytorch"
    else:
        path = "native, AVX-512 with bfloat16" if kernels.vectors else "native, portable loops"
    found = {
        "langwright": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(device),
        "cpu": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "instruction_sets": instruction_sets(),
        "free_memory": free_memory(device),
        "compiler": kernels.compiler,
        "kernels": path,
        "reason": kernels.reason,
        "file": None if kernels.file is None else str(kernels.file),
        "read_bandwidth": round(bandwidth),
    }
    if json:
        print_json(found)
        return
    shown = found | {
        "instruction_sets": " ".join(instruction_sets()) or "not known",
        "free_memory": f"{free_memory(device) / 2**30:.1f} GiB",
        "compiler": kernels.compiler or "none found",
        "kernels": f"{path} ({kernels.reason})",
        "read_bandwidth": f"{bandwidth / 1e9:.1f} GB/s",
    }
    for name, value in shown.items():
        if name != "reason" and value is not None:
            print(f"{name.replace('_', ' '):17} {value}")
