"""Real servers for tests: private processes on free loopback ports with throw-away data."""
