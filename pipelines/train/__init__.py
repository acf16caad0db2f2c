"""HumanSD from our shards: a Stable Diffusion that also takes a drawn skeleton, trained on 1 to N workers."""
