"""What a config expands to: its fits, the trials of its tuning, and which fit of a run is the best."""
