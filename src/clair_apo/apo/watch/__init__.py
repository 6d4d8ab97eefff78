"""What a trained model says: single tokens that sums hide, and its answers to held-out prompts."""
