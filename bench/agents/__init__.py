"""What the agents cost, and what they hold to under load and kills."""
