"""What tools/demo.py promises for videos: a video that plays, records with times, and honest words about the rest."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dk_detr.commands import demo, demo_frames
from dk_detr.data.frames import Frame
from tests.video_fixtures import frames_of, make_video


@pytest.fixture
def run_demo(tiny_run, tmp_path, run_tool):
    """Runs the tool; returns its exit status."""

    def run(*arguments: object) -> int:
        common = ["--config-file", tiny_run / "config.yaml", "--output", tmp_path / "found", "--threshold", 0.2]
        return run_tool("demo.py", *common, *arguments, "--opts", "MODEL.WEIGHTS", tiny_run / "model_final.pth")

    return run


def records(folder: Path, name: str = "a.json") -> list[dict]:
    return json.loads((folder / "found" / name).read_text())


def test_a_video_becomes_a_video_and_a_record_of_each_frame(run_demo, tmp_path, capsys):
    video = make_video(tmp_path / "a.mp4", 5, sound=True)
    assert run_demo("--video-input", video) == 0
    codec, pixels, times, _ = frames_of(tmp_path / "found" / "a.mp4")
    assert (codec, pixels) == ("h264", "yuv420p")
    found = records(tmp_path)
    assert [record["time"] for record in found] == times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert all((record["file"], record["width"], record["height"]) == (str(video), 64, 48) for record in found)
    assert any(record["detections"] for record in found)
    said = capsys.readouterr().out
    assert "has sound" in said and "5 frames, 0.00 to 0.40 s" in said


def test_interrupted_it_leaves_what_is_done_and_start_goes_on_from_there(run_demo, tmp_path, monkeypatch, capsys):
    make_video(tmp_path / "a.mp4", 12)
    assert run_demo("--video-input", tmp_path / "a.mp4", "--every", 2) == 0
    whole = records(tmp_path)
    look_of, seen = demo.look_of, []

    def impatient(*arguments: object) -> demo.Look:
        look = look_of(*arguments)

        def once(rgb: np.ndarray) -> object:
            seen.append(rgb)
            if len(seen) == 4:
                raise KeyboardInterrupt
            return look(rgb)

        return once

    monkeypatch.setattr(demo, "look_of", impatient)
    assert run_demo("--video-input", tmp_path / "a.mp4", "--every", 2) == 130
    message = capsys.readouterr().err
    assert records(tmp_path) == whole[:3] and len(frames_of(tmp_path / "found" / "a.mp4")[3]) == 3
    monkeypatch.setattr(demo, "look_of", look_of)
    start = float(message.split("--start ")[1].split()[0])
    assert run_demo("--video-input", tmp_path / "a.mp4", "--every", 2, "--start", start) == 0
    assert records(tmp_path, f"a_from_{start:g}s.json") == whole[3:]
    assert records(tmp_path) == whole[:3]


class Camera:
    """Three frames, and then no more."""

    name, waits, rate, duration = "webcam_0", False, 10.0, None

    def __init__(self, number: int = 0) -> None:
        self.complaints: list[str] = []

    def frames(self, start: float = 0.0, every: int = 1):
        """As the real one."""
        for number in range(3):
            yield Frame(np.full((48, 64, 3), 100, np.uint8), number / 10)
        self.complaints.append("The camera stopped after 3 frames.")


def test_a_camera_says_how_many_frames_were_missed_and_why_it_ended(run_demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_frames, "Webcam", Camera)
    assert run_demo("--webcam") == 1
    out, err = capsys.readouterr()
    done = len(records(tmp_path, "webcam_0.json"))
    missed = [line for line in out.splitlines() if "were not looked at" in line]
    assert 1 <= done <= 3 and (not missed if done == 3 else missed[0].startswith(f"{3 - done} frames"))
    assert "The camera stopped" in err and (tmp_path / "found" / "webcam_0.mp4").is_file()


def test_a_recording_is_never_overwritten_and_each_video_has_records_of_its_own(run_demo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_frames, "Webcam", Camera)
    run_demo("--webcam")
    first = (tmp_path / "found" / "webcam_0.json").read_bytes()
    run_demo("--webcam")
    for name in ("b", "a"):
        assert run_demo("--video-input", make_video(tmp_path / f"{name}.mp4", 2)) == 0
    written = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"webcam_0.mp4", "webcam_0_2.mp4", "webcam_0_2.json", "a.mp4", "a.json", "b.mp4", "b.json"} <= written
    assert (tmp_path / "found" / "webcam_0.json").read_bytes() == first


def test_of_every_frame_it_goes_on_just_after_the_last_whatever_the_rate():
    done, source = demo_frames._Done(), SimpleNamespace(rate=4.9)
    done.add(Frame(np.zeros((2, 2, 3), np.uint8), 10.150))
    assert 10.150 < demo_frames._next(done, source, SimpleNamespace(every=1, start=None)) < 10.150 + 1 / 60


def test_an_error_in_the_middle_says_how_far_it_came_and_keeps_what_is_done(run_demo, tmp_path, monkeypatch, capsys):
    make_video(tmp_path / "a.mp4", 4)
    look_of, answers = demo.look_of, []

    def failing(*arguments: object) -> demo.Look:
        look = look_of(*arguments)

        def once(rgb: np.ndarray) -> object:
            if len(answers) == 2:
                raise RuntimeError("out of memory")
            answers.append(look(rgb))
            return answers[-1]

        return once

    monkeypatch.setattr(demo, "look_of", failing)
    assert run_demo("--video-input", tmp_path / "a.mp4") == 1
    message = capsys.readouterr().err
    assert "Broke off after 2 frames, at 0.10 s." in message and "error: out of memory" in message
    assert len(records(tmp_path)) == len(frames_of(tmp_path / "found" / "a.mp4")[3]) == 2


def test_end_and_slices(run_demo, tmp_path):
    pytest.importorskip("supervision")
    make_video(tmp_path / "a.mp4", 12)
    assert run_demo("--video-input", tmp_path / "a.mp4", "--start", 0.25, "--end", 0.5, "--slice", 32) == 0
    found = records(tmp_path, "a_from_0.25s.json")
    assert [record["time"] for record in found] == pytest.approx([0.3, 0.4])


def test_bad_arguments_end_in_one_clear_error(run_demo, tmp_path, tiny_images, capsys):
    video = make_video(tmp_path / "a.mp4", 3)
    (tmp_path / "no.mp4").write_text("no video")
    for message, arguments in {
        "cannot be read as a video": ("--video-input", tmp_path / "no.mp4"),
        "no video nowhere.mp4": ("--video-input", "nowhere.mp4"),
        "a has no frame that can be decoded from 9 s on. It is 0.30 s long": ("--video-input", video, "--start", 9),
        "--start counts with frames only": ("--input", tiny_images, "--start", 1),
        "--every counts with frames only": ("--input", tiny_images, "--every", 2),
        "--start counts with --video-input only": ("--webcam", "--start", 1),
        "must be later than": ("--video-input", video, "--start", 1, "--end", 1),
        "--every must be at least 1": ("--video-input", video, "--every", 0),
        "would overwrite the video": ("--video-input", video, "--output", tmp_path),
        "there is no camera 99": ("--webcam", 99),
        "--slice 0 must": ("--input", tiny_images, "--slice", 0),
    }.items():
        assert run_demo(*arguments) == 1, message
        assert message in capsys.readouterr().err.replace("There is", "there is")
    assert not (tmp_path / "found" / "detections.json").exists()


def test_exactly_one_source_is_named(run_demo, tiny_images, capsys):
    assert run_demo() == 2
    assert run_demo("--input", tiny_images, "--webcam", 0) == 2
