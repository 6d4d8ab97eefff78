"""What the reference says of a pair, and where that is kept."""
