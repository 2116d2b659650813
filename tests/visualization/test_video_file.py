"""The video that is written: what browsers play, the times of its pictures, and what a kill leaves."""

import numpy as np
import pytest

from dk_detr.visualization.video_file import KEYFRAMES, VideoFile, video_file
from tests.video_fixtures import frames_of


def picture(grey: int, width: int = 65, height: int = 49) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def test_it_is_h264_in_yuv420p_with_even_sides_and_the_times_that_were_given(tmp_path):
    times = [5.0, 5.1, 5.6, 5.7]
    with video_file(tmp_path / "a.mp4", 10) as file:
        for number, time in enumerate(times):
            file.add(picture(40 * number), time)
    codec, pixels, found, pictures = frames_of(tmp_path / "a.mp4")
    assert (codec, pixels) == ("h264", "yuv420p")
    assert found == pytest.approx([0, 0.1, 0.6, 0.7])
    assert pictures[0].shape == (48, 64, 3)
    assert [frame.mean() for frame in pictures] == pytest.approx([0, 40, 80, 120], abs=4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so that it plays while it loads


def test_an_error_leaves_a_whole_video_of_the_pictures_so_far(tmp_path):
    with pytest.raises(KeyboardInterrupt), video_file(tmp_path / "a.mp4", 10) as file:
        file.add(picture(100), 0.0)
        raise KeyboardInterrupt
    assert len(frames_of(tmp_path / "a.mp4")[3]) == 1


def test_a_kill_leaves_a_video_that_plays(tmp_path):
    file = VideoFile(tmp_path / "a.mp4", 10)
    for number in range(3 * KEYFRAMES):
        file.add(picture(100), number / 10)
    assert len(frames_of(tmp_path / "a.unfinished.mp4")[3]) >= 2 * KEYFRAMES - 1
    file.close()
    assert len(frames_of(tmp_path / "a.mp4")[3]) == 3 * KEYFRAMES


def test_pictures_of_another_size_are_fitted_and_times_that_do_not_grow_lose_none(tmp_path):
    with video_file(tmp_path / "a.mp4", 10) as file:
        file.add(picture(100), 0.0)
        file.add(picture(100, 128, 96), 0.0)
    _, _, times, pictures = frames_of(tmp_path / "a.mp4")
    assert [frame.shape for frame in pictures] == [(48, 64, 3)] * 2 and times[0] < times[1]


def test_without_pictures_there_is_no_file(tmp_path):
    with video_file(tmp_path / "a.mp4", 10):
        pass
    assert not list(tmp_path.iterdir())
