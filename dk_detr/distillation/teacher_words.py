"""What a teacher of a fixed list of words knows of the student's words. K words, E text width."""

from torch import Tensor

from dk_detr.structures import Vocabulary


def rows_of_student(theirs: Vocabulary, words: Vocabulary, who: str) -> Tensor:
    """(K, E) the teacher's embeddings of the student's words, in the student's order.

    Args:
        theirs: the words of the teacher's training. words: of the student's. who: the teacher, for errors.

    Raises: ValueError for a word that the teacher was not trained for.
    """
    unknown = [name for name in words.names if name not in theirs.names]
    if unknown:
        raise ValueError(
            f'{who} was not trained for "{unknown[0]}" ({len(unknown)} of the {len(words)} words of the student\'s '
            "training, MODEL.VOCABULARY): choose a teacher of the same words."
        )
    return theirs.select(words.names).embeddings
