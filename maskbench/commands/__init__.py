"""What each command does with its arguments; maskbench/cli.py puts them together. torch is imported on use."""
