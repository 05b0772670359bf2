"""Tables on the host: the doors for files and data frames, ratings and their columns, outside ids, splits."""
