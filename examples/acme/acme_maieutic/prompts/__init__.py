"""The prompts: those named as one of Maieutic's take its place, the reviewer's is its own."""
