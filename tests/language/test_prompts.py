"""Prompts: the sentences in which a name is read."""

import pytest

from dk_detr.language import PROMPTS, prompt_texts, readable
from dk_detr.language.prompts import VILD_TEMPLATES


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fishing_boat", "fishing boat"),
        ("speaker_(stero_equipment)", "speaker (stero equipment)"),
        ("cup/mug", "cup or mug"),
        ("Christmas_tree", "christmas tree"),
        ("Dr.", "dr"),
        (" zebra ", "zebra"),
    ],
)
def test_a_name_becomes_words(name: str, words: str) -> None:
    assert readable(name) == words


def test_vild_has_63_sentences_all_different() -> None:
    assert len(VILD_TEMPLATES) == 63
    assert len(set(prompt_texts("zebra", "vild"))) == 63


def test_every_sentence_of_vild_ends_in_one_full_stop_and_holds_the_words_once() -> None:
    for text in prompt_texts("fishing_boat", "vild"):
        assert text.endswith(".") and not text.endswith("..")
        assert text.count("fishing boat") == 1
        assert "{" not in text


@pytest.mark.parametrize(
    "text",
    [
        "There is a zebra in the scene.",
        "There is the zebra in the scene.",
        "This is a photo of one zebra in the scene.",
        "itap of my zebra.",
        "This is a photo of many zebra.",
        "This is a black and white photo of the zebra.",
        "This is a jpeg corrupted photo of a zebra.",
        "This is a photo of the hard to see zebra.",
        "This is the plushie zebra.",
        "This is an embroidered zebra.",
        "This is a painting of a zebra.",
    ],
)
def test_vild_says_as_its_released_code_does(text: str) -> None:
    assert text in prompt_texts("zebra", "vild")


def test_regionclip_has_81_sentences_all_different() -> None:
    texts = prompt_texts("zebra", "regionclip")
    assert len(set(texts)) == 81 and all(text.endswith("zebra.") or "zebra in a video game." in text for text in texts)
    assert {"a embroidered zebra.", "art of the zebra.", "itap of my zebra.", "a photo of many zebra."} <= set(texts)


def test_regionclip_reads_names_without_signs() -> None:
    assert prompt_texts("speaker_(stero_equipment)", "regionclip")[-1] == "speaker stero equipment."
    assert prompt_texts("a+b,_c", "regionclip")[-1] == "a b c."


def test_this_is_stands_before_what_begins_with_an_article_and_nowhere_else() -> None:
    texts = prompt_texts("zebra", "vild")
    begun = [text for text in texts if text.startswith("This is ")]
    assert all(text.removeprefix("This is ").startswith(("a ", "an ", "the ")) for text in begun)
    assert {text.split()[0] for text in texts if text not in begun} == {"There", "itap"}
    assert len(begun) == 63 - 2 - 3


@pytest.mark.parametrize(("name", "article"), [("apple", "an"), ("Orange_juice", "an"), ("zebra", "a"), ("_ice", "an")])
def test_the_article_follows_the_first_letter(name: str, article: str) -> None:
    words = readable(name)
    assert prompt_texts(name, "single") == [f"a photo of {article} {words}."]
    assert f"There is {article} {words} in the scene." in prompt_texts(name, "vild")


def test_a_name_alone_is_only_its_words() -> None:
    assert prompt_texts("fishing_boat", "name") == ["fishing boat"]


def test_an_unknown_prompt_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r'"vilt"; choose one of name, single, vild, regionclip \(MODEL.VOCAB'):
        prompt_texts("zebra", "vilt")
    assert all(prompt_texts("zebra", prompt) for prompt in PROMPTS)
