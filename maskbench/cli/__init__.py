"""The command line: parsing only, one command a file. torch is imported on use."""
