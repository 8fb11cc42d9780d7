"""`python -m in_jumpcloud` is `in-jumpcloud`."""

from in_jumpcloud.cli import main

main()
