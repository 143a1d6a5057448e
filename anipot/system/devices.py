"""Devices: which one to compute on, and how much memory it has to give."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from anipot.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises SettingsError for one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        reason = str(e).splitlines()[0] if "Expected one of" not in str(e) else "no such kind"
        raise SettingsError(
            f"device {name!r} cannot be used here ({reason}); write auto, cpu, cuda or cuda:N"
        ) from None
    return device


def free_memory(device: torch.device) -> int:
    """Bytes free on a device; for the CPU what this process can take without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_system_memory(), _container_memory())


def _system_memory() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 4 << 30


def _container_memory() -> int:
    """Memory left within the limit of a container or a cluster job."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        return max(int(limit) - used, 0) if limit != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62
