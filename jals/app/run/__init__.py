"""Making the fits of a config, keeping them, and going on after a stop."""
