"""What holds for every test: nothing is fetched from a model hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
