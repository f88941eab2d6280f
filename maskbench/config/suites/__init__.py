"""Grids of runs that ship, as YAML."""
