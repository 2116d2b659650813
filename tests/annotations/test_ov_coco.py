"""The 48 base and 17 novel categories of OV-COCO."""

from detectron2.data import MetadataCatalog

from dk_detr.annotations.ov_coco import BASE, NOVEL
from tests.run_fixtures import COCO_IDS


def test_the_lists_have_48_and_17_names_and_are_disjoint() -> None:
    assert (len(BASE), len(NOVEL), len({*BASE, *NOVEL})) == (48, 17, 65)


def test_they_have_cocos_ids_and_spellings() -> None:
    assert {**BASE, **NOVEL}.items() < COCO_IDS.items()


def test_they_come_by_ascending_id() -> None:
    for names in (BASE, NOVEL):
        assert list(names.values()) == sorted(names.values())


def test_the_data_sets_say_what_is_novel() -> None:
    for name in ("coco_zeroshot_train_oriorder", "coco_generalized_zeroshot_val", "coco_2017_ovd_all_test"):
        assert MetadataCatalog.get(name).novel_names == tuple(NOVEL)
    assert "novel_names" not in MetadataCatalog.get("coco_not_zeroshot_val").as_dict()
