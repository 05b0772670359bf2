"""What people look at: the terminal, the page of a run, the report on several."""
