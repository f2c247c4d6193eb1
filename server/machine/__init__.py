"""A machine that runs: its process, its commands, its own USB devices."""
