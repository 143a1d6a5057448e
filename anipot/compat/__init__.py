"""Bridges that let code written for other libraries run. Nothing else in anipot uses them."""
