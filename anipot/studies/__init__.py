"""Studies: the experiments of the source documents, one module each; ``common`` is what they share.

A study's ``run`` prints its table and what one learns from it, and leaves a folder with the same
text, figures, and every number.
"""
