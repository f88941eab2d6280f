"""Hostile and unlucky inputs at every door through which something from disk, or a typed word, comes in."""
