"""The archive: it consumes results and events, keeps them in a database, and serves cold reads."""
