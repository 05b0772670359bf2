"""Tables on disk, cut into shards of rows: larger than memory, and whole files for each of several devices."""
