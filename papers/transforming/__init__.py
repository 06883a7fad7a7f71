"""A small GPT: its curvature by type of block, as Adam sees it, over training, and over classes."""
