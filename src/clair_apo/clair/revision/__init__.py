"""How a reviser is asked, and how its reply becomes a revision of the answer."""
