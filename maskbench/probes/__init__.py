"""Frozen, versioned questions to an encoder, one a file."""
