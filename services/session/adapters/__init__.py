"""Where Redis meets the session service."""
