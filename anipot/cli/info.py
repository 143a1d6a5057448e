"""anipot info."""

from __future__ import annotations

import platform
from importlib.metadata import version

import typer

from anipot.version import __version__


def info() -> None:
    """Print versions, AEV engines, devices and the place of the bundled data.

    In Python:

    \b
    from anipot.aev.computer import engine_report
    print(engine_report())
    """
    import torch

    from anipot.aev import AEVComputer, AEVSettings, native_library, triton_engine
    from anipot.aev.computer import engine_report
    from anipot.data.published.bundled import bundled_path
    from anipot.networks.native import available as networks_compiled

    typer.echo(f"anipot {__version__}, Python {platform.python_version()}, {platform.platform()}")
    names = ("torch", "torchani", "numpy", "ase", "h5py", "safetensors")
    typer.echo(", ".join(f"{name} {version(name)}" for name in names))
    typer.echo("AEV engines:")
    for name, available, reason in engine_report():
        detail = f"{native_library.variant()} kernels" if available and name == "native" else reason
        typer.echo(f"  {name:<13}  {'yes' if available else 'no':<3}  {detail}".rstrip())
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    computer = AEVComputer(AEVSettings.ani1x())
    for device in [torch.device("cpu"), *gpus]:
        name = computer.engine_on(device)
        why = triton_engine.why_unusable(device) if device in gpus else ""
        because = f" (not triton: {why})" if why else ""
        typer.echo(f"  in use on {device}: {name}{because}")
    typer.echo(f"compiled networks for small systems: {'yes' if networks_compiled() else 'no'}")
    cuda = [torch.cuda.get_device_name(gpu) for gpu in gpus]
    typer.echo(
        f"devices: CPU with {torch.get_num_threads()} threads; CUDA: {', '.join(cuda) or 'none'}"
    )
    typer.echo(f"bundled data: {bundled_path()}")
