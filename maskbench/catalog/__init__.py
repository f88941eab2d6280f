"""What `list`, `show` and the strategy pages say: descriptions and pictures of every component."""
