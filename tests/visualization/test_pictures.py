"""What pictures promise: readable labels, a colour for each category, and a star for what is novel."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from dk_detr.structures import Vocabulary
from dk_detr.visualization import pictures
from dk_detr.visualization.pictures import Comparison, LabelledBoxes

GREY = np.full((96, 96, 3), 128, np.uint8)
WORDS = Vocabulary(("apple", "traffic_light"), torch.eye(2), torch.tensor([False, True]))


def labelled(*boxes, names=None, novel=None, scores=None) -> LabelledBoxes:
    count = len(boxes)
    return LabelledBoxes(np.array(boxes, dtype=float), names or ["apple"] * count, novel or [False] * count, scores)


def test_a_label_has_the_readable_name_the_score_and_a_star_where_novel():
    words = {"names": ["apple", "traffic_light"], "novel": [False, True]}
    boxes = labelled((0, 0, 9, 9), (0, 0, 5, 5), **words, scores=[0.871, 1.0])
    assert boxes.labels() == ["apple 87%", "★ traffic light 100%"]
    assert labelled((0, 0, 9, 9)).labels() == ["apple"]


def test_a_category_has_one_colour_and_most_categories_differ():
    names = [f"category {i}" for i in range(100)]
    assert [pictures.category_colour(name) for name in names] == [pictures.category_colour(name) for name in names]
    assert len({pictures.category_colour(name) for name in names}) > 90
    assert all(0 <= value <= 1 for name in names for value in pictures.category_colour(name))


def test_small_images_are_enlarged_and_large_ones_left_alone():
    assert pictures.draw_boxes(GREY, labelled((10, 10, 60, 60)), shortest_side=400).shape == (400, 400, 3)
    photo = np.zeros((480, 640, 3), np.uint8)
    drawn = pictures.draw_boxes(photo, labelled((10, 10, 60, 60)), shortest_side=400)
    assert drawn.shape == photo.shape and drawn.any()


def test_no_side_of_a_picture_is_larger_than_the_largest():
    for size in ((1, 4000), (4000, 1), (2, 9000)):
        drawn = pictures.draw_boxes(np.zeros((*size, 3), np.uint8), labelled((0, 0, 1, 1)), shortest_side=480)
        assert max(drawn.shape) == 8192 and min(drawn.shape[:2]) >= 1


def test_an_image_without_boxes_is_the_image():
    photo = np.random.default_rng(0).integers(0, 255, (480, 500, 3), dtype=np.uint8)
    assert (pictures.draw_boxes(photo, labelled()) == photo).all()


def test_outlines_lie_where_the_boxes_are():
    drawn = pictures.draw_boxes(GREY, labelled((24, 48, 72, 84)), shortest_side=960).astype(int)
    changed = (np.abs(drawn - 128).sum(axis=2) > 60).nonzero()
    below_the_label = changed[0] > 500
    x, y = changed[1][below_the_label], changed[0][below_the_label]
    assert (x.min(), x.max(), y.max()) == pytest.approx((240, 720, 840), abs=8)


def test_labels_of_crowded_boxes_do_not_cover_each_other():
    canvas = pictures._LabelVisualizer(np.zeros((480, 480, 3), np.uint8), lines_per_side=34)
    boxes = np.array([[200, 200, 280, 280], [205, 205, 285, 285], [195, 210, 290, 270]], dtype=float)
    for i in range(3):
        canvas.draw_label("striped purple cross 99%", boxes, i, (1.0, 0.0, 0.0))
    placed = np.stack(canvas._placed)
    for i in range(3):
        assert pictures._covered(placed[i], np.delete(placed, i, axis=0)) == 0
    assert (placed >= 0).all() and (placed <= 480).all()


def test_confident_boxes_have_the_score_and_the_novel_mask_of_the_vocabulary():
    boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7]])
    found = Instances((9, 9), pred_boxes=Boxes(boxes))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.3, 0.29]), torch.tensor([1, 0, 1])
    kept = pictures.confident_boxes(found, WORDS, 0.3)
    assert list(kept.names) == ["traffic_light", "apple"] and list(kept.novel) == [True, False]
    assert len(pictures.confident_boxes(found, WORDS, 1.0).boxes_xyxy_abs) == 0


def test_of_several_classes_of_one_box_the_best_is_shown():
    boxes = np.array([[0.0, 0, 5, 5], [1, 1, 6, 6], [0, 0, 5, 5], [1, 1, 6, 6]])
    assert pictures.best_of_each_box(boxes, np.array([0.2, 0.5, 0.9, 0.4])).tolist() == [2, 1]
    assert pictures.best_of_each_box(np.zeros((0, 4)), np.zeros(0)).tolist() == []


def test_a_grid_has_a_pair_of_tiles_for_each_image_whatever_its_shape():
    wide = np.full((40, 120, 3), 200, np.uint8)
    comparisons = [Comparison(image, labelled((5, 5, 30, 30)), labelled()) for image in (GREY, wide, GREY)]
    one_row = pictures.comparison_grid(comparisons[:2], columns=2, tile=120)
    two_rows = pictures.comparison_grid(comparisons, columns=2, tile=120)
    assert one_row.shape[1] == two_rows.shape[1] > 4 * 120
    assert two_rows.shape[0] - one_row.shape[0] == 120 + 3  # a tile and a gap
    assert pictures.comparison_grid(comparisons[:1], columns=2, tile=120).shape[1] < one_row.shape[1]


def test_a_saved_picture_is_whole_and_nothing_else_is_left(tmp_path):
    pictures.save_picture(GREY, tmp_path / "new folder" / "grey.png")
    assert (np.asarray(Image.open(tmp_path / "new folder" / "grey.png")) == GREY).all()
    assert len(list((tmp_path / "new folder").iterdir())) == 1


def test_masks_are_laid_over_the_image_in_the_colour_of_their_category():
    image = np.full((500, 500, 3), 100, np.uint8)
    mask = np.zeros((1, 500, 500), bool)
    mask[0, 200:300, 200:300] = True
    boxes = LabelledBoxes(np.array([[150.0, 150, 350, 350]]), ["cat"], [False], None, mask)
    picture = pictures.draw_boxes(image, boxes)
    colour = 255 * np.array(pictures.category_colour("cat"))
    assert np.abs(picture[250, 250] - (0.55 * 100 + 0.45 * colour)).max() <= 1
    assert (picture[330, 330] == 100).all()  # within the box and outside of the mask


def test_masks_go_with_their_boxes_when_the_best_of_each_is_chosen():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [4, 4, 8, 8]])
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    for i in range(3):
        masks[i, i, i] = True
    found = Instances((8, 8), pred_boxes=Boxes(boxes), scores=torch.tensor([0.5, 0.9, 0.7]), pred_masks=masks)
    found.pred_classes = torch.zeros(3, dtype=torch.long)
    words = Vocabulary(("cat",), torch.ones(1, 1), torch.tensor([False]))
    assert np.array_equal(pictures.confident_boxes(found, words, 0.0).masks, masks[[1, 2]].numpy())
