"""What holds for every test: nothing is fetched from a model hub, no luck with the clock."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

# a busy machine makes any example slow; pytest-timeout stops what hangs
settings.register_profile("clair_apo", deadline=None)
settings.load_profile("clair_apo")
