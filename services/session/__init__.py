"""The session service: live conversations and turns, and the clock of unfinished work."""
