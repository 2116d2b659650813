"""Evaluation of a detector on data sets, each with its own words and by the rules of its benchmark."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from torch import nn

from dk_detr.annotations import choose_novel
from dk_detr.data import categories_of, require_images, test_mapper
from dk_detr.data.present import CHECK_IMAGES
from dk_detr.engine.fusion import WithClip, with_clip
from dk_detr.engine.proposals import WithProposals
from dk_detr.evaluation import NamingEvaluator, OpenVocabularyEvaluator
from dk_detr.language.from_config import read_vocabulary
from dk_detr.meta_arch.open_vocabulary import untrained
from dk_detr.structures import Vocabulary

logger = logging.getLogger(__name__)


def evaluate(cfg: CfgNode, model: nn.Module) -> "OrderedDict[str, Any]":
    """Results of DATASETS.TEST by data set. The model's words are put back afterwards.

    Raises: ValueError, before any image is looked at: see `prepare_evaluation`. Images are not asked for; see
        `require_test_images`.
    """
    detector: Any = model.module if hasattr(model, "module") else model
    words_before: Vocabulary = detector.vocabulary
    prepared = prepare_evaluation(cfg, detector)
    mapper = test_mapper(cfg, detector.looks_at_objects)
    asked = with_clip(cfg, WithProposals(detector) if cfg.TEST.ALSO_RECALL_OF else model, detector)
    results: OrderedDict[str, Any] = OrderedDict()
    try:
        for name, (words, evaluator) in prepared.items():
            detector.set_vocabulary(words)
            logger.info(f"Evaluating on {name}: {words.describe()}")
            records = DatasetCatalog.get(name)
            loader = build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
            results[name] = inference_on_dataset(asked, loader, evaluator)
            if isinstance(asked, WithClip):
                asked.report()
    finally:
        detector.set_vocabulary(words_before)
    return results


def require_test_images(cfg: CfgNode) -> None:
    """Every image of DATASETS.TEST is a file. To be asked once in a run, before the work: it reads all records.

    Raises: FileNotFoundError naming the first that is not there.
    """
    for name in cfg.DATASETS.TEST:
        require_images(DatasetCatalog.get(name), name, CHECK_IMAGES)


def prepare_evaluation(cfg: CfgNode, detector: Any) -> dict[str, tuple[Vocabulary, DatasetEvaluator]]:
    """For each of DATASETS.TEST the words, in the order of its categories, and the evaluator. Asked for before
    training, too: what cannot be evaluated need not be trained.

    Raises: ValueError naming the data set where names are missing, the words are not for this detector, or the
        annotation file is not one for its benchmark; and for a recall that the detector cannot give.
    """
    unknown = [what for what in cfg.TEST.ALSO_RECALL_OF if what != "proposals"]
    if unknown:
        raise ValueError(f'TEST.ALSO_RECALL_OF holds "{unknown[0]}"; it may hold "proposals".')
    if cfg.TEST.ALSO_RECALL_OF:
        WithProposals(detector)
    words_before: Vocabulary = detector.vocabulary
    prepared = {}
    try:
        for name in cfg.DATASETS.TEST:
            words = words_of(cfg, name, words_before)
            with _named(cfg, name):
                detector.set_vocabulary(words)
                prepared[name] = words, _evaluators(cfg, name, words, detector)
    finally:
        detector.set_vocabulary(words_before)
    return prepared


def words_of(cfg: CfgNode, name: str, default: Vocabulary) -> Vocabulary:
    """The words of a data set: of its file in MODEL.VOCABULARY.OF_DATASETS, else of the default vocabulary."""
    path = vocabulary_files(cfg).get(name)
    with _named(cfg, name):
        vocabulary = read_vocabulary(path, name, "MODEL.VOCABULARY.OF_DATASETS") if path else default
        return vocabulary.select([category["name"] for category in categories_of(name)])


def vocabulary_files(cfg: CfgNode) -> dict[str, str]:
    """MODEL.VOCABULARY.OF_DATASETS by data set. Raises ValueError for what is not "name=file" or never used."""
    entries = cfg.MODEL.VOCABULARY.OF_DATASETS
    wrong = [entry for entry in entries if not all(str(entry).partition("="))]
    if wrong:
        raise ValueError(f'MODEL.VOCABULARY.OF_DATASETS holds "{wrong[0]}"; wanted "name=file", such as "a_val=a.npz".')
    files = dict(entry.split("=", 1) for entry in entries)
    if len(files) < len(entries):
        raise ValueError(f"MODEL.VOCABULARY.OF_DATASETS names a data set twice: {', '.join(entries)}.")
    strangers = [name for name in files if name not in cfg.DATASETS.TEST]
    if strangers:
        tests = ", ".join(cfg.DATASETS.TEST)
        raise ValueError(f"MODEL.VOCABULARY.OF_DATASETS names {strangers[0]}, which is not in DATASETS.TEST ({tests}).")
    return files


@contextmanager
def _named(cfg: CfgNode, dataset: str) -> Iterator[None]:
    """Says of which data set an error of its block is."""
    try:
        yield
    except ValueError as error:
        key = "DATASETS.KEEP" if dataset in cfg.DATASETS.KEEP else "DATASETS.TEST"
        raise ValueError(f"{key} {dataset}: {error}") from error


def _evaluators(cfg: CfgNode, name: str, words: Vocabulary, detector: Any) -> DatasetEvaluator:
    more = kept_groups(name, words, detector.train_vocabulary) if name in cfg.DATASETS.KEEP else {}
    of_boxes = build_evaluator(cfg, name, words, more)
    if not detector.looks_at_objects:
        return of_boxes
    return DatasetEvaluators([of_boxes, NamingEvaluator(words.names, novel_names_of(name, words), groups_of(name))])


def build_evaluator(
    cfg: CfgNode, name: str, words: Vocabulary, groups: Mapping[str, Sequence[str]] | None = None
) -> OpenVocabularyEvaluator:
    """The evaluator of a data set. `groups`: of names, beside those of the data set."""
    data_set = MetadataCatalog.get(name)
    return OpenVocabularyEvaluator(
        data_set.get("evaluator_type", "none"),
        data_set.json_file,
        words.names,
        novel=novel_names_of(name, words),
        groups={**groups_of(name), **(groups or {})},
        output_dir=f"{cfg.OUTPUT_DIR}/inference/{name}",
    )


def groups_of(name: str) -> dict[str, list[str]]:
    """Further groups of names that a data set asks for: "novel-unseen", of categories marked `unseen_concept`."""
    unseen = [category["name"] for category in categories_of(name) if category.get("unseen_concept")]
    return {"novel-unseen": unseen} if unseen else {}


def kept_groups(name: str, words: Vocabulary, trained: Vocabulary) -> dict[str, list[str]]:
    """Groups of a data set of DATASETS.KEEP: "base-kept" and "novel-kept", without the words that are trained now; none
    where none of its words is."""
    kept = [word for word, free in zip(words.names, untrained(words, trained.names).tolist()) if free]
    if len(kept) in (0, len(words)):
        return {}
    novel = set(novel_names_of(name, words))
    return {
        "base-kept": [word for word in kept if word not in novel],
        "novel-kept": [word for word in kept if word in novel],
    }


def novel_names_of(name: str, words: Vocabulary) -> tuple[str, ...]:
    """The novel names of a data set; see `choose_novel`."""
    of_benchmark = MetadataCatalog.get(name).get("novel_names", ())
    listed = [word for word in words.names if word in of_benchmark]
    if words.novel_names and listed and set(words.novel_names) != set(listed):
        counts = f"the {len(listed)} of the benchmark, not the {len(words.novel_names)} of the vocabulary"
        logger.warning(f"{name}: novel are {counts}.")
    return choose_novel(listed=listed or None, vocabulary=words.novel_names)
