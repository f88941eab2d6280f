"""Pre-training objectives, one a file: what the encoder must do with what a strategy shows it."""
