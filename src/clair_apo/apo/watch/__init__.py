"""What one sees of a training beside rewards: single tokens, speed, and the policy's answers."""
