"""The 48 base, 17 novel and 15 unused categories of OV-COCO."""

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from dk_detr.annotations.ov_coco import BASE, NOVEL, UNUSED


def test_the_three_lists_have_48_17_and_15_names_and_are_disjoint() -> None:
    assert [len(names) for names in (BASE, NOVEL, UNUSED)] == [48, 17, 15]
    assert len({*BASE, *NOVEL, *UNUSED}) == 80


def test_together_they_are_cocos_80_categories_with_cocos_ids_and_spellings() -> None:
    assert {**BASE, **NOVEL, **UNUSED} == {c["name"]: c["id"] for c in COCO_CATEGORIES if c["isthing"]}


def test_they_come_by_ascending_id() -> None:
    for names in (BASE, NOVEL, UNUSED):
        assert list(names.values()) == sorted(names.values())


def test_the_data_sets_say_what_is_novel() -> None:
    for name in ("coco_zeroshot_train_oriorder", "coco_generalized_zeroshot_val", "coco_2017_ovd_all_test"):
        assert MetadataCatalog.get(name).novel_names == tuple(NOVEL)
    assert "novel_names" not in MetadataCatalog.get("coco_not_zeroshot_val").as_dict()
