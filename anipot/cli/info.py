"""anipot info."""

from __future__ import annotations

import platform
from importlib.metadata import version

import typer

from anipot.version import __version__


def info() -> None:
    """Versions, AEV engines, devices and bundled data: what to tell when something is odd.

    In Python:

    \b
    from anipot.aev.computer import engine_report
    print(engine_report())
    """
    import torch

    from anipot.aev import native
    from anipot.aev.computer import engine_report
    from anipot.datasets import bundled_path
    from anipot.small_networks import available as networks_compiled

    typer.echo(f"anipot {__version__}, Python {platform.python_version()}, {platform.platform()}")
    names = ("torch", "torchani", "numpy", "ase", "h5py", "safetensors")
    typer.echo(", ".join(f"{name} {version(name)}" for name in names))
    typer.echo("AEV engines:")
    for name, available, reason in engine_report():
        detail = f"{native.variant()} kernels" if available and name == "native" else reason
        typer.echo(f"  {name:<10} {'yes' if available else 'no':<3}  {detail}".rstrip())
    typer.echo(f"compiled networks for small systems: {'yes' if networks_compiled() else 'no'}")
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    typer.echo(
        f"devices: CPU with {torch.get_num_threads()} threads; CUDA: {', '.join(cuda) or 'none'}"
    )
    typer.echo(f"bundled data: {bundled_path()}")
