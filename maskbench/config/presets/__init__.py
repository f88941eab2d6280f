"""Presets that ship: complete, commented YAML."""
