"""The mini world: a small LVIS-v1-format data set of drawn objects, to try a whole open-vocabulary detector in minutes.

Read in this order: concepts (which words), shapes (outlines), scene (one picture), lvis_format and captions (what is
said of it), shards and build (how it gets to disk), new_words (a few labels to fine-tune with).
"""

from dk_detr.mini_world.build import MiniWorld, make_mini_world
from dk_detr.mini_world.concepts import Category, Concept, all_concepts, categories
from dk_detr.mini_world.new_words import write_new_words

__all__ = ["Category", "Concept", "MiniWorld", "all_concepts", "categories", "make_mini_world", "write_new_words"]
