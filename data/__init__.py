"""The data set that comes with anipot; ``README.md`` beside this file tells what it is."""
