"""Data sets by name or path, as splits of uint8 images: read, cached, streamed, augmented.

`load_dataset` (load.py) is the way in. It finds the encoded images (image_source.py; a module for each kind of source),
brings them to one size (prepare.py), keeps the result in the cache folder (cache.py) and returns `Splits` (splits.py).
"""

from maskbench.data.load import download_dataset, explain_labels, load_dataset

__all__ = ["download_dataset", "explain_labels", "load_dataset"]
