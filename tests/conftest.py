"""For all tests."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # what is not at hand must fail, and not be fetched
