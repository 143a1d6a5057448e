"""``python -m benchmarks NAME [options]`` runs ``main(argv)`` of ``benchmarks/NAME.py``."""

import importlib
import pkgutil
import sys

import benchmarks


def main(argv: list[str]) -> int:
    names = sorted(
        m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name != "__main__"
    )
    if not argv or argv[0] not in names:
        print(f"usage: python -m benchmarks NAME [options]; NAME is one of: {', '.join(names)}")
        return 2
    return int(importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
