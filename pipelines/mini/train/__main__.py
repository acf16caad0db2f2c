"""`python -m pipelines.mini.train vae|pose|mm|clip|diffusion --run DIR` trains a model; `assemble` ships them."""

import importlib
import sys

MODELS = ("vae", "pose", "mm", "clip", "diffusion", "assemble")


def main(argv: list[str]) -> None:
    """Hand the remaining arguments to the training named first."""
    if not argv or argv[0] not in MODELS:
        sys.exit(f"usage: python -m pipelines.mini.train {{{'|'.join(MODELS)}}} --run DIR [options]")
    importlib.import_module(f"pipelines.mini.train.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
