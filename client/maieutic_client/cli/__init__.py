"""The command `maieutic`. Only this package of the client reads the environment."""

from maieutic_client.cli.main import main

__all__ = ["main"]
