"""Small documents to talk about."""

TEA = """# Tea

## Green tea

Green tea is brewed at 75 degrees for two minutes. Hotter water makes it bitter, because
it draws out more tannin.

## Black tea

Black tea is brewed with boiling water for four minutes. Milk softens its tannin.

## Storage

Tea leaves are stored in a closed tin, away from light, for at most two years.
"""

BREAD = """# Bread

## Rye

Rye bread needs a sour dough, because its starch would otherwise be broken down while it bakes.
It is baked at 250 degrees, falling to 200, for an hour.
"""
