"""Prompts: the sentences in which a name is put before the text encoder reads it."""

PROMPTS = ("name", "single", "vild")

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


VILD_TEMPLATES = _vild_templates()


def readable(name: str) -> str:
    """A category name as words: "speaker_(stero_equipment)" -> "speaker (stero equipment)", "a/b" -> "a or b"."""
    return " ".join(name.replace("_", " ").replace("/", " or ").lower().split()).rstrip(". ")


def prompt_texts(name: str, prompt: str) -> list[str]:
    """The sentences for one name.

    Args:
        name: a category name as the data set spells it.
        prompt: "name" (the bare words), "single" ("a photo of a …."), or "vild" (its 63 templates, with "This is"
            put before those that begin with "a" or "the", as ViLD's released code does).
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
    raise ValueError(f'Unknown prompt "{prompt}"; choose one of {", ".join(PROMPTS)} (MODEL.VOCABULARY.PROMPT).')
