"""Where the gateway keeps what it knows."""
