"""Pictures of explanations: what they show, and that words and numbers keep out of one another's way."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from dk_detr.explain import HeatMap, ImageExplained, Points, explain_detections
from dk_detr.explain.pictures import detection_sheet, draw_detection, draw_regions, draw_relations, teaching_sheets
from dk_detr.explain.pictures.detection_sheet import heat_colours, step_colours, view_of
from dk_detr.explain.pictures.style import label_of
from dk_detr.structures import Vocabulary
from tests.explain.test_teaching import teaching
from tests.explain_fixtures import HEIGHT, WIDTH, TinyPredictor, picture
from tests.model_fixtures import configured_detector


def explained(name: str, **options: Any) -> ImageExplained:
    predictor: Any = TinyPredictor(configured_detector(name, TRAINING_EXTENSIONS=[], **options))
    return explain_detections(predictor, "", 0.0, 1)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were rendered."""
    figures: list[Figure] = []
    for room in (detection_sheet, teaching_sheets):
        rendered = room.rendered
        monkeypatch.setattr(
            room, "rendered", lambda figure, rendered=rendered: figures.append(figure) or rendered(figure)
        )
    return figures


def written(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover one another, and texts that are cut by the border (beside "")."""
    texts = written(figure)
    boxes = [text.get_window_extent() for text in texts]
    width, height = figure.canvas.get_width_height()
    cut = [(t.get_text(), "") for t, b in zip(texts, boxes) if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    pairs = [
        (one.get_text(), other.get_text())
        for i, (one, a) in enumerate(zip(texts, boxes))
        for other, b in list(zip(texts, boxes))[i + 1 :]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    return [*cut, *pairs]


@pytest.mark.parametrize(("name", "layers"), [("dk_detr_R50", 2), ("detr_R50", 6), ("adamixer_R50_1x", 7)])
def test_a_sheet_has_a_panel_for_each_layer_and_texts_that_do_not_overlap(
    name: str, layers: int, drawn: list[Figure]
) -> None:
    answer = explained(name, DECODER_LAYERS=layers)
    sheet = draw_detection(picture(), answer, answer.detections[0], "a photo of a long name.jpg")
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 16 * 130
    texts = [text.get_text() for text in written(drawn[0])]
    assert {f"layer {number + 1}" for number in range(layers)} <= set(texts)
    assert overlaps(drawn[0]) == []


def test_the_view_holds_the_boxes_of_all_steps_and_stays_in_the_image() -> None:
    answer = explained("dk_detr_R50")
    detection = answer.detections[0]
    x0, y0, x1, y1 = view_of(detection, (HEIGHT, WIDTH))
    assert 0 <= x0 < x1 <= WIDTH
    assert 0 <= y0 < y1 <= HEIGHT
    for step in detection.steps:
        left, top, right, bottom = step.place.tolist()
        assert x0 <= left and y0 <= top and right <= x1 and bottom <= y1


def test_a_heat_map_is_seen_over_the_whole_image() -> None:
    answer = explained("detr_R50")
    assert isinstance(answer.detections[0].looks[0], HeatMap)
    assert view_of(answer.detections[0], (HEIGHT, WIDTH)) == (0, 0, WIDTH, HEIGHT)


def test_marks_share_an_area_as_the_points_share_the_attention(drawn: list[Figure]) -> None:
    answer = explained("dk_detr_R50", DECODER_LAYERS=1)
    (look,) = answer.detections[0].looks
    assert isinstance(look, Points)
    draw_detection(picture(), answer, answer.detections[0], "")
    panel = next(
        axes for axes in drawn[0].findobj(lambda part: hasattr(part, "scatter")) if axes.get_title("left") == "layer 1"
    )
    places = np.concatenate([marks.get_offsets() for marks in panel.collections])
    areas = np.concatenate([marks.get_sizes() for marks in panel.collections])
    xy, shares = look.xy.reshape(-1, 2).numpy() * np.array([WIDTH, HEIGHT]), look.shares().flatten().numpy()
    assert len(areas) == len(shares)
    for place, share in zip(xy, shares):
        drawn_area = areas[np.abs(places - place).sum(1).argmin()]
        assert drawn_area == pytest.approx(max(detection_sheet.MARKS * share, detection_sheet.SMALLEST_MARK), rel=1e-4)


def test_steps_go_from_light_to_dark_and_heat_from_clear_to_opaque() -> None:
    light = [sum(colour[:3]) for colour in step_colours(7)]
    assert light == sorted(light, reverse=True)
    assert heat_colours(np.array([0.0, 0.5, 1.0]))[:, 3].tolist() == [0.0, 0.45, 0.9]


@pytest.mark.parametrize("number", [2, 9])
def test_regions_and_relations_are_numbered_alike_and_say_how_many_are_shown(
    number: int, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching_sheets, "SHOWN", 7)
    told = teaching(number)
    draw_regions(picture(), told, "photo.jpg")
    draw_relations(picture(), told, "photo.jpg")
    shown = {str(i + 1) for i in range(min(number, teaching_sheets.SHOWN))}
    for figure in drawn:
        texts = [text.get_text() for text in written(figure)]
        assert shown <= set(texts)
        assert any(("the first 7 of 9" if number == 9 else f"{number} distilled regions") in text for text in texts)
    assert overlaps(drawn[1]) == []


def test_long_words_are_cut_and_novel_ones_have_a_star() -> None:
    names = ("a_very_long_name_of_a_thing_that_nobody_would_say", "cat")
    words = Vocabulary(names, torch.eye(2), torch.tensor([False, True]))
    assert label_of(words, 0) == "a very long name of a thi…"
    assert label_of(words, 1) == "★ cat"
