"""Settings: their schema, the presets and suites that ship."""
