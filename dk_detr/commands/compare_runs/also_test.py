"""Further data sets that the trained weights are evaluated on, beside the run (--also-test)."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detectron2.config import CfgNode

from dk_detr.commands.compare_runs.runs import Run
from dk_detr.data import datasets_below, datasets_root
from dk_detr.engine.evaluate import prepare_evaluation, require_test_images
from dk_detr.engine.run_folder import EVALUATION, read_results
from dk_detr.engine.setup import setup_cfg

FORM = "NAME[@FOLDER][=VOCABULARY]"
_PARTS = re.compile(r"(?P<name>[^@=]+)(@(?P<root>[^=]+))?(=(?P<vocabulary>.+))?")


@dataclass(frozen=True)
class AlsoTest:
    """A data set, where it lies, and the words to find there.

    Attributes:
        text: as the user wrote it. root: in place of DETECTRON2_DATASETS; None for there. vocabulary: a file; None for
            the words of the config.
    """

    text: str
    name: str
    root: str | None
    vocabulary: str | None


@dataclass(frozen=True)
class Evaluation:
    """The weights of a finished run on one more data set; its results lie in the folder of the run."""

    run: Run
    test: AlsoTest

    @property
    def title(self) -> str:
        """How terminal and errors call it."""
        return f"{self.run.title} on {self.test.text}"

    @property
    def folder(self) -> Path:
        """Beside what the run has recorded; its name says all of the test, so no other test is taken for it."""
        return self.run.folder / EVALUATION / quote(self.test.text, safe="@=")

    @property
    def root(self) -> str | None:
        """Where the data set is, in place of DETECTRON2_DATASETS."""
        return self.test.root

    @property
    def is_done(self) -> bool:
        """Whether there are results of the whole run."""
        return (read_results(str(self.folder)) or {}).get("iteration") == self.run.cfg.SOLVER.MAX_ITER

    @property
    def units(self) -> int:
        """One evaluation."""
        return 1

    @property
    def units_done(self) -> int:
        """All or nothing."""
        return int(self.is_done)

    @property
    def scores(self) -> dict[str, float]:
        """The metrics of boxes, and of masks, these with "segm/" before."""
        results: dict[str, dict[str, float]] = (read_results(str(self.folder)) or {})["results"]
        masks = {f"segm/{name}": score for name, score in results.get("segm", {}).items()}
        return {**results["bbox"], **masks}

    @cached_property
    def cfg(self) -> CfgNode:
        """The config of the run, with this data set and these weights."""
        return setup_cfg(self.run.config_file, self._options)

    def command(self, train_net: Path) -> list[str]:
        """The command that evaluates."""
        config = ("--config-file", self.run.config_file)
        return [sys.executable, str(train_net), *config, "--eval-only", *self._options]

    @property
    def _options(self) -> list[str]:
        test = self.test
        listed = [entry for entry in self.run.cfg.MODEL.VOCABULARY.OF_DATASETS if entry.startswith(f"{test.name}=")]
        keys = {
            "DATASETS.TEST": (test.name,),
            "MODEL.VOCABULARY.OF_DATASETS": [f"{test.name}={test.vocabulary}"] if test.vocabulary else listed,
            "MODEL.WEIGHTS": self.run.weights,
            "OUTPUT_DIR": self.folder,
        }
        return [*self.run.options, *(str(word) for pair in keys.items() for word in pair)]


def also_tests(texts: Sequence[str]) -> list[AlsoTest]:
    """What --also-test says. Raises ValueError for what cannot be read, or is said twice."""
    tests = []
    for text in texts:
        match = _PARTS.fullmatch(text)
        if not match:
            raise ValueError(f'--also-test "{text}" is not of the form {FORM}.')
        if texts.count(text) > 1:
            raise ValueError(f"--also-test {text} is given twice.")
        tests.append(AlsoTest(text, **match.groupdict()))
    return tests


def refuse_what_cannot_be_evaluated(evaluation: Evaluation, model: Any) -> None:
    """Before anything is trained. Raises ValueError or FileNotFoundError for a data set that is not there, that the
    runs are evaluated on anyway, or whose words are not known.

    Args:
        model: of the run's config.
    """
    test, cfg = evaluation.test, evaluation.cfg
    if test.text in evaluation.run.cfg.DATASETS.TEST:
        raise ValueError(f"--also-test {test.text}: {evaluation.run.name} is evaluated on it anyway, by DATASETS.TEST.")
    with datasets_below(test.root or datasets_root()):
        prepare_evaluation(cfg, model)
        require_test_images(cfg)
