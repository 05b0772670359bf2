"""Running a solver: the loop, one fit, many fits as one program, grids and paths."""
