"""What Acme adds to Maieutic: an agent, a tool, and prompts in its own words."""
