"""`python -m pipelines.mini.proof.rival plain|controlnet|t2i --data OUT --out DIR`: train one of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.config import load_config
from pipelines.mini.proof.rivals import RIVAL_KINDS, train_rival
from pipelines.train.config import TrainConfig


def main() -> None:
    """Train one, and say how long it took."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kind", choices=RIVAL_KINDS)
    options.add_argument("--data", required=True, help="the dataset, its latents computed")
    options.add_argument("--out", type=Path, required=True, help="the diffusers folder to write")
    options.add_argument("--set", action="append", default=[], help="a key of the config, such as steps=10")
    args = options.parse_args()
    config = load_config(TrainConfig, str(Path(__file__).with_name("proof.toml")), args.set, folder="train")
    minutes = train_rival(args.kind, config, [args.data], args.out)
    print(f"{args.kind}: {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
