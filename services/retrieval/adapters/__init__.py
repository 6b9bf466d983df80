"""The technologies behind the ports: what embeds text, and what keeps and searches vectors."""
