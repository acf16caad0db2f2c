"""The paper's comparison in miniature, on the drawn world: HumanSD under three losses, and what it is compared with."""
