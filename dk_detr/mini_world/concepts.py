"""The words of the mini world: which concepts exist, which of them are categories, and how frequent each one is.

A concept is texture x colour x shape, written as LVIS writes names ("striped_red_star"). There are 132 of them, of
which 48 are categories: 12 frequent, 24 common and 12 rare. Rare means novel, as in open-vocabulary LVIS: 6 are new
combinations of attributes that base categories have, 6 have a shape that no base category has ("unseen concept"). The
latter share two texture-colour pairs, three shapes each, so that texture and colour do not give the shape away.

The list is the same for every seed: a vocabulary built once fits every mini world.
"""

import dataclasses

TEXTURES = ("plain", "striped")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
BASE_SHAPES = ("circle", "square", "triangle", "cross", "heart", "arrow", "bolt", "crown")
UNSEEN_SHAPES = ("star", "crescent", "hourglass")

NUM_FREQUENT, NUM_COMMON, NUM_NEW_COMBINATIONS = 12, 24, 6
UNSEEN_PAIRS = (("plain", "red"), ("striped", "blue"))

# How often a category of each LVIS group is drawn in the training images, relative to the others.
SAMPLING_WEIGHTS = {"f": 4.0, "c": 1.5, "r": 0.6}


@dataclasses.dataclass(frozen=True)
class Concept:
    """What an object looks like, in words."""

    texture: str
    colour: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.texture}_{self.colour}_{self.shape}"


@dataclasses.dataclass(frozen=True)
class Category:
    """A concept that the data set annotates.

    id counts from 1 in the order of names, as in LVIS, so novel categories lie scattered among the base ones.
    """

    id: int
    concept: Concept
    frequency: str

    @property
    def name(self) -> str:
        return self.concept.name

    @property
    def novel(self) -> bool:
        return self.frequency == "r"

    @property
    def unseen_concept(self) -> bool:
        return self.concept.shape in UNSEEN_SHAPES


def all_concepts() -> tuple[Concept, ...]:
    """Every texture x colour x shape: the 132 things that CLIP gets to know."""
    shapes = BASE_SHAPES + UNSEEN_SHAPES
    return tuple(Concept(texture, colour, shape) for texture in TEXTURES for colour in COLOURS for shape in shapes)


def _spread_combinations(count: int) -> list[Concept]:
    """The first combinations of base attributes, spread evenly over textures, colours and shapes.

    A stride that shares no factor with the number of combinations visits each one once.
    """
    pairs = [(texture, colour) for texture in TEXTURES for colour in COLOURS]
    total, stride = len(pairs) * len(BASE_SHAPES), 37
    places = [index * stride % total for index in range(count)]
    return [Concept(*pairs[place // len(BASE_SHAPES)], BASE_SHAPES[place % len(BASE_SHAPES)]) for place in places]


def categories() -> tuple[Category, ...]:
    """The 48 categories, ordered by name."""
    combinations = _spread_combinations(NUM_FREQUENT + NUM_COMMON + NUM_NEW_COMBINATIONS)
    frequencies = ["f"] * NUM_FREQUENT + ["c"] * NUM_COMMON + ["r"] * NUM_NEW_COMBINATIONS
    unseen = [Concept(*pair, shape) for pair in UNSEEN_PAIRS for shape in UNSEEN_SHAPES]
    chosen = list(zip(combinations + unseen, frequencies + ["r"] * len(unseen), strict=True))
    chosen.sort(key=lambda entry: entry[0].name)
    return tuple(Category(number, concept, frequency) for number, (concept, frequency) in enumerate(chosen, start=1))
