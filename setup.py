"""The compiled part of the package; everything else stands in pyproject.toml."""

import sys

from setuptools import Extension, setup

FOLDER = "anipot/aev/_native/"

# Nothing for the machine at hand: the kernels come once for each instruction set, and the library
# chooses when it runs. No -ffast-math: a NaN must be found. The two flags are what vectorising a
# square root needs.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
if sys.platform != "darwin":
    FLAGS.append("-pthread")

#: What both libraries are made of.
SHARED = ("variants.h", "variants.inl", "simd.inl")

setup(
    ext_modules=[
        Extension(
            name,
            sources=[source],
            depends=depends,
            extra_compile_args=FLAGS,
            extra_link_args=[] if sys.platform == "darwin" else ["-pthread"],
            language="c++",
            # Without a compiler the installation still succeeds, and the reference engine is used.
            optional=True,
        )
        for name, source, depends in (
            (
                "anipot.aev._engine",
                FOLDER + "engine.cpp",
                [FOLDER + f for f in ("common.h", "grid.h", *SHARED, "kernels.inl")],
            ),
            (
                "anipot.networks._networks",
                "anipot/networks/_native/networks.cpp",
                ["anipot/networks/_native/networks.inl", *(FOLDER + f for f in SHARED)],
            ),
        )
    ]
)
