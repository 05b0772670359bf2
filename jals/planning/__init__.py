"""What a fit will need of a slice of accelerators, told before one is there: read off the compiled program."""
