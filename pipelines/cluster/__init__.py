"""Ray for the engine, and the files that bring a cluster up."""

import os

# Read when Ray is imported. Under `uv run`, Ray would pack the working folder and build a second environment of
# gigabytes for its workers: ours have the driver's.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
