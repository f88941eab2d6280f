"""The encoder: timm's vision transformers over any tokens, the EMA teacher, weights from elsewhere."""
