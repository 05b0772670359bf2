"""`python -m jals` is the command `jals`."""

from .app.cli import main

main()
