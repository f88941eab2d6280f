"""The machine: hardware, threads, clocks, atomic files, signals, processes of one run."""
