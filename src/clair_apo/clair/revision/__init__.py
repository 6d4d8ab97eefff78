"""Asks a reviser for a revision, reads its reply, and applies it to the answer."""
