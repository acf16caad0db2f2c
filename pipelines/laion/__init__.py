"""LAION-Human: metadata → candidates → download → scores and poses → gates → shards."""
