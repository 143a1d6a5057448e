"""State dicts of any model: the file, the tensors in it, and the potential built from them."""
