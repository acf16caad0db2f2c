"""Settings that hold before img2dataset is imported."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
