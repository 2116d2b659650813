"""Parts that do not go together are refused when built, by both their keys; parts that do, train."""

import itertools
from typing import Any

import pytest

from dk_detr.meta_arch.combinations import refuse_bad_combinations
from dk_detr.modeling import POSITIONS, QUERIES, REFINEMENTS
from tests.model_fixtures import configured_detector, tiny_config, tiny_input, training_losses

DETR, CONDITIONAL, DAB, DEFORMABLE = "detr_R50", "conditional_detr_R50", "dab_detr_R50", "deformable_detr_R50"
TWO_STAGE, DINO, DK_DETR = "deformable_detr_two_stage_R50", "dino_R50_4scale", "dk_detr_R50"
TWO_MAPS = {"IN_FEATURES": ["fine", "coarse"]}
ATTENTIONS = ("Deformable", "Dense", "Conditional")
DENOISING = ("Denoising", "ContrastiveDenoising")

# config, what is changed, the two keys as the message has them, and the way out
REFUSED: list[tuple[str, dict[str, Any], str, str, str]] = [
    # attention and the number of levels
    (DETR, TWO_MAPS, 'ENCODER_ATTENTION "Dense"', "IN_FEATURES", 'choose "Deformable"'),
    (DETR, {"NUM_EXTRA_LEVELS": 1}, 'ENCODER_ATTENTION "Dense"', "NUM_EXTRA_LEVELS 1 make 2", "name one map and 0"),
    (DINO, {"ENCODER_ATTENTION": "Dense"}, 'ENCODER_ATTENTION "Dense"', "IN_FEATURES", 'choose "Deformable"'),
    (
        DETR, {**TWO_MAPS, "ENCODER_ATTENTION": "Deformable"},
        'DECODER_ATTENTION "Dense"', "IN_FEATURES", 'choose "Deformable"',
    ),
    (
        DAB, {**TWO_MAPS, "ENCODER_ATTENTION": "Deformable"},
        'DECODER_ATTENTION "Conditional"', "IN_FEATURES", 'choose "Deformable"',
    ),
    # attention and position
    (
        CONDITIONAL, {"POSITION": "Given"},
        'POSITION is "Given"', 'DECODER_ATTENTION "Conditional"', '"ConditionalSine" or "ModulatedSineAnchors"',
    ),
    (DAB, {"POSITION": "SineAnchors"}, 'POSITION is "SineAnchors"', 'DECODER_ATTENTION "Conditional"', "that takes"),
    (DAB, {"POSITION": "ScaledSineAnchors"}, 'POSITION is "Scaled', 'DECODER_ATTENTION "Conditional"', "that takes"),
    (DETR, {"POSITION": "ConditionalSine"}, 'POSITION is "Cond', 'DECODER_ATTENTION "Dense"', '"Given" or "SineAnc'),
    (DINO, {"POSITION": "ConditionalSine"}, 'POSITION is "Cond', 'DECODER_ATTENTION "Deformable"', '"Given" or'),
    (DINO, {"POSITION": "ModulatedSineAnchors"}, 'POSITION is "Mod', 'DECODER_ATTENTION "Deformable"', '"Given" or'),
    # queries and position
    (
        DAB, {"POSITION": "ConditionalSine"},
        'POSITION is "ConditionalSine"', 'QUERIES "Anchors" brings none', '"ModulatedSineAnchors"',
    ),
    ("dab_deformable_detr_R50", {"POSITION": "Given"}, 'POSITION is "Given"', 'QUERIES "Anchors" brings', '"SineAnc'),
    (DEFORMABLE, {"POSITION": "SineAnchors"}, 'POSITION is "Sine', 'QUERIES "Learned" brings no boxes', '"Anchors"'),
    (CONDITIONAL, {"POSITION": "ModulatedSineAnchors"}, 'POSITION is "Mod', 'QUERIES "Learned" brings', '"Anchors"'),
    (TWO_STAGE, {"POSITION": "SineAnchors"}, 'POSITION is "Sine', 'QUERIES "Proposals" brings its own', '"Mixed"'),
    # queries and refinement
    *(
        (DETR, {"REFINEMENT": name}, f'REFINEMENT "{name}"', 'QUERIES "Learned"', 'choose "Direct"')
        for name in REFINEMENTS
        if name != "Direct"
    ),
    # queries and content, which those with a first stage have of their own
    (DINO, {"CONTENT": "Zero"}, 'CONTENT is "Zero"', 'QUERIES "Mixed" has its own', 'leave it at "Learned"'),
    (DK_DETR, {"CONTENT": "Common"}, 'CONTENT is "Common"', 'QUERIES "Proposals" has its own', '"Anchors"'),
    # layers and the scales of positions
    *(
        (config, {"DECODER_LAYERS": 1}, "POSITION is", 'DECODER_LAYERS "1" leaves its scale', "take 2 or more")
        for config in (CONDITIONAL, DAB, "dab_deformable_detr_R50")
    ),
    (DAB, {"ENCODER_LAYERS": 0}, 'ENCODER_POSITION is "ScaledSine"', 'ENCODER_LAYERS "0" leaves', "take 1 or more"),
    # queries and training extensions
    *(
        (
            config, {"TRAINING_EXTENSIONS": [name]},
            f'MODEL.TRAINING_EXTENSIONS "{name}"', 'QUERIES "Learned"', '"Anchors", "Proposals" or "Mix',
        )
        for config in (DETR, CONDITIONAL, DEFORMABLE)
        for name in DENOISING
    ),
    (
        DINO, {"TRAINING_EXTENSIONS": list(DENOISING)},
        'MODEL.TRAINING_EXTENSIONS names "Denoising"', '"ContrastiveDenoising"', "(loss_dn_…): take one of them out",
    ),
    # the first stage
    *(
        (
            config, {"FIRST_STAGE": "ClassAware"},
            'FIRST_STAGE is "ClassAware"', f'QUERIES "{queries}" has no first stage', '"Mixed"',
        )
        for config, queries in ((DAB, "Anchors"), (DETR, "Learned"))
    ),
    (
        DK_DETR, {"FIRST_STAGE": "ClassAware"},
        'FIRST_STAGE "ClassAware"', 'CLASSIFIER.NAME "CosineText"', 'choose "ClassAgnostic"',
    ),
    # who says how well boxes fit
    (
        DAB, {"QUALITY__PLACES": ["first_stage"]},
        'QUALITY.PLACES names "first_stage"', 'QUERIES "Anchors" has none', 'choose "Proposals" or "Mixed"',
    ),
    (
        DINO, {"QUALITY__PLACES": ["first_stage"]},
        'QUALITY.PLACES names "first_stage"', 'FIRST_STAGE "ClassAware"', 'choose "ClassAgnostic"',
    ),
    # classes
    (DETR, {"LOSS__CLASS": "Focal"}, 'LOSS.CLASS "Focal"', 'CLASSIFIER.NAME "LinearBackground"', '"CrossEntropy"'),
    (DINO, {"LOSS__CLASS": "CrossEntropy"}, 'LOSS.CLASS "CrossEntropy"', 'CLASSIFIER.NAME "Linear"', '"Focal"'),
    # negatives
    *(
        (
            config, {"LOSS__NEGATIVES": name},
            f'LOSS.NEGATIVES "{name}"', f'not for "{loss}"', 'set the former to "All"',
        )
        for config, loss in ((DETR, "CrossEntropy"), ("vild_image_R50", "BoxesOnly"))
        for name in ("Federated", "OtherClusters")
    ),
    (
        DINO, {"LOSS__NEGATIVES": "OtherClusters"},
        'LOSS.NEGATIVES "OtherClusters"', 'CLASSIFIER.NAME "Linear" does not have', 'choose "CosineText"',
    ),
    (
        DAB, {"CLASSIFIER__NAME": "CosineTextObjectness", "LOSS__CLASS": "BoxesOnly"},
        'CLASSIFIER.NAME "CosineTextObjectness"', 'QUERIES "Anchors" has none', 'Choose "Proposals" or "Mixed"',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "changes", "one", "other", "remedy"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_does_not_go_together_is_refused_by_both_keys(
    config: str, changes: dict[str, Any], one: str, other: str, remedy: str
) -> None:
    refuse_bad_combinations(tiny_config(config))
    with pytest.raises(ValueError) as error:
        refuse_bad_combinations(tiny_config(config, **changes))
    message = str(error.value)
    assert one in message and other in message.split(one, 1)[1] and remedy in message
    assert message.startswith(("MODEL.DETR.", "MODEL.TRAINING_EXTENSIONS"))


@pytest.mark.parametrize(
    ("config", "key", "sizes"),
    [
        (DK_DETR, "MAX_SIZE_TEST", {"MAX_SIZE_TEST": 1333}),
        (DK_DETR, "JITTER_SIZE", {"JITTER_SIZE": 1333}),
        (DETR, "MAX_SIZE_TRAIN", {"MAX_SIZE_TRAIN": 1333}),
    ],
)
def test_images_that_come_larger_than_the_square_are_refused_by_both_keys(
    config: str, key: str, sizes: dict[str, int]
) -> None:
    cfg = tiny_config(config, PADDED_SIZE=1024)
    for each in ("MAX_SIZE_TEST", "JITTER_SIZE", "MAX_SIZE_TRAIN"):
        cfg.INPUT[each] = 1024
    refuse_bad_combinations(cfg)
    cfg.INPUT.update(sizes)
    with pytest.raises(ValueError, match=f"INPUT.{key} 1333 is more than MODEL.DETR.PADDED_SIZE 1024, .* for no fixed"):
        refuse_bad_combinations(cfg)
    cfg.MODEL.DETR.PADDED_SIZE = 0
    refuse_bad_combinations(cfg)


def test_what_learns_nothing_of_places_cannot_be_distilled() -> None:
    with pytest.raises(ValueError, match='names "Distillation", but MODEL.DETR.QUERIES "Anchors" proposes no places'):
        configured_detector(DK_DETR, QUERIES="Anchors", POSITION="SineAnchors")


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("QUERIES", "Proposals, Mixed, Learned, Anchors, WholeImage"),
        ("POSITION", "Given, ConditionalSine, SineAnchors, ScaledSineAnchors, ModulatedSineAnchors"),
        ("ENCODER_ATTENTION", "Deformable, Dense"),
        ("DECODER_ATTENTION", "Deformable, Dense, Conditional"),
        ("REFINEMENT", "Direct, FromReference, Iterative, LookForwardTwice"),
        ("FIRST_STAGE", "ClassAgnostic, ClassAware"),
        ("CONTENT", "Learned, Common, Zero"),
        ("HEADS", "PerLayer, Shared"),
        ("DECODER", "DETR"),
        ("BOXES", "Logits"),
        ("ACTIVATION", "relu, prelu"),
        ("DECODER_NORM", "none, LN"),
        ("NECK_NORM", "GN, SharedGN, none"),
        ("ENCODER_POSITION", "Sine, ScaledSine"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(key: str, known: str) -> None:
    with pytest.raises(ValueError, match=f'MODEL.DETR.{key} is "Nothing"; choose one of {known}'):
        configured_detector("dab_deformable_detr_R50", **{key: "Nothing"})


def test_an_extension_that_does_not_exist_is_refused_with_those_that_do() -> None:
    known = "Denoising, ContrastiveDenoising, BoxDenoising, OneToMany, Distillation"
    with pytest.raises(ValueError, match=f'MODEL.TRAINING_EXTENSIONS is "Noise"; choose one of {known}'):
        configured_detector(DINO, TRAINING_EXTENSIONS=["Noise"])


# ---- what is not refused ----


def allowed() -> list[dict[str, Any]]:
    """All that goes together, with the refinements and extensions that are most apart."""
    found = []
    for (refinement, extensions), *names in itertools.product(
        (("Direct", []), ("LookForwardTwice", ["ContrastiveDenoising"])), QUERIES, POSITIONS, ATTENTIONS
    ):
        parts = dict(zip(("QUERIES", "POSITION", "DECODER_ATTENTION"), names))
        parts |= {"REFINEMENT": refinement, "TRAINING_EXTENSIONS": extensions}
        try:
            refuse_bad_combinations(tiny_config(body(parts["DECODER_ATTENTION"]), **parts))
        except ValueError:
            continue
        found.append(parts)
    return found


def body(attention: str) -> str:
    """A config of one level where attention needs that."""
    return "dab_deformable_detr_R50" if attention == "Deformable" else DAB


def test_whatever_is_not_refused_trains_and_detects() -> None:
    """Gradients on all parameters, for which DDP waits."""
    parts_of_all = allowed()
    assert len(parts_of_all) > 20
    for parts in parts_of_all:
        detector = configured_detector(body(parts["DECODER_ATTENTION"]), **parts, ENCODER_LAYERS=1, DECODER_LAYERS=2)
        sum(training_losses(detector, [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]).values()).backward()
        unused = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
        assert not unused, (parts, unused)
        assert len(detector.eval()([tiny_input(seed=1)])[0]["instances"]), parts
