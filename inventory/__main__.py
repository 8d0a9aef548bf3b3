"""`python -m inventory`, the same as the installed `inventory`."""

from inventory.cli import main

main()
