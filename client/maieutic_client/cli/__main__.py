"""`python -m maieutic_client.cli`."""

from maieutic_client.cli.main import main

main(prog_name="maieutic")
