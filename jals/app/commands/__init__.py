"""What the other commands do: recommend, derive, datasets, doctor."""
