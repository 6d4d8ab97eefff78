"""What the policy says of both answers of a pair, and in which layout."""
