"""Prompts: the sentences in which a name is put before the text encoder reads it."""

PROMPTS = ("name", "single", "vild", "regionclip")

_PHOTO_QUALITIES = (
    "good", "bad", "bright", "dark", "low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated",
    "black and white",
)  # fmt: skip
_OBJECT_QUALITIES = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")
_MATERIALS = ("plastic", "toy", "plushie", "cartoon")


def _vild_templates() -> tuple[str, ...]:
    """The 63 templates of ViLD (ICLR 2022, official demo); {a} is a/an before the name, {n} the name."""
    scene = ["There is {a} {n}", "There is the {n}"] + [f"a photo of {d} {{n}}" for d in ("{a}", "the", "one")]
    templates = [f"{frame} in the scene." for frame in scene]
    templates += [f"itap of {d} {{n}}." for d in ("{a}", "my", "the")]
    templates += [f"a photo of {d} {{n}}." for d in ("{a}", "my", "the", "one", "many")]
    templates += [f"a {q} photo of {d} {{n}}." for q in _PHOTO_QUALITIES for d in ("{a}", "the")]
    templates += [f"a photo of {d} {q} {{n}}." for q in _OBJECT_QUALITIES for d in ("a", "the")]
    templates += [f"{d} {m} {{n}}." for m in _MATERIALS for d in ("a", "the")]
    templates += ["an embroidered {n}.", "the embroidered {n}.", "a painting of the {n}.", "a painting of a {n}."]
    return tuple(templates)


def _regionclip_templates() -> tuple[str, ...]:
    """The 81 templates of RegionCLIP (CVPR 2022, release): CLIP's 80 for ImageNet, and the bare name."""
    pictures = (
        "a sculpture", "a rendering", "graffiti", "a tattoo", "a drawing", "a painting", "a doodle", "a sketch",
        "a rendition", "art",
    )  # fmt: skip
    made_of = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")
    templates = [f"a {quality} photo of {d} {{n}}." for quality in _PHOTO_QUALITIES for d in ("a", "the")]
    templates += [f"a photo of {d} {quality} {{n}}." for quality in _OBJECT_QUALITIES for d in ("a", "the")]
    templates += [f"a photo of {d} {{n}}." for d in ("a", "the", "my", "one", "many")]
    templates += [f"{picture} of {d} {{n}}." for picture in pictures for d in ("a", "the")]
    templates += [f"{d} {kind} {{n}}." for kind in made_of for d in ("a", "the")]
    templates += [f"{d} {{n}} in a video game." for d in ("a", "the")]
    return (*templates, *(f"itap of {d} {{n}}." for d in ("a", "the", "my")), "{n}.")


VILD_TEMPLATES = _vild_templates()
REGIONCLIP_TEMPLATES = _regionclip_templates()


def readable(name: str) -> str:
    """A category name as words: "speaker_(stero_equipment)" -> "speaker (stero equipment)", "a/b" -> "a or b"."""
    return " ".join(name.replace("_", " ").replace("/", " or ").lower().split()).rstrip(". ")


def prompt_texts(name: str, prompt: str) -> list[str]:
    """The sentences for one name.

    Args:
        name: a category name as the data set spells it.
        prompt: "name" (the bare words), "single" ("a photo of a …."), "vild" (its 63 templates, with "This is"
            put before those that begin with "a" or "the", as ViLD's released code does), or "regionclip" (its 81).
    """
    words = readable(name)
    article = "an" if words[:1] in tuple("aeiou") else "a"
    if prompt == "name":
        return [words]
    if prompt == "single":
        return [f"a photo of {article} {words}."]
    if prompt == "vild":
        texts = [template.format(a=article, n=words) for template in VILD_TEMPLATES]
        return [f"This is {text}" if text.startswith(("a", "the")) else text for text in texts]
    if prompt == "regionclip":
        plain = " ".join(words.translate(str.maketrans("+", " ", "(),")).split())
        return [template.format(n=plain) for template in REGIONCLIP_TEMPLATES]
    raise ValueError(f'Unknown prompt "{prompt}"; choose one of {", ".join(PROMPTS)} (MODEL.VOCABULARY.PROMPT).')
