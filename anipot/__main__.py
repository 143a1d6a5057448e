"""``python -m anipot``."""

from anipot.cli import main

if __name__ == "__main__":
    main()
