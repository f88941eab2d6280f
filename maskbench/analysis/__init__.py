"""Records -> tables and plots: pure functions of what is stored, without torch."""
