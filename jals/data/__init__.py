"""Tables on the host: reading files and data frames, ratings and their columns, outside ids, splits."""
