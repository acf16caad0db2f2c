"""Annotated sets in COCO's format, Human-Art first among them, as shards."""
