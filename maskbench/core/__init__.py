"""What strategies and objectives are made of: registry, parameters, grid, views, context, random numbers."""
