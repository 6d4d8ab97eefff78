"""What several tests share: tiny models and pairs, servers on loopback, runs of each kind."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
