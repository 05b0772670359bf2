"""The folder of a run on disk: the types of its records (`record`), and its files (`folder`)."""
