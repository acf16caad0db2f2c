"""GHI: images sampled from a diffusion model on grammar prompts, with the poses a detector finds in them."""
