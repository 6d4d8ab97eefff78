"""What a trained model says, and whether it got better: suites over models, with intervals."""
