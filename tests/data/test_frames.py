"""Frames of videos, streams and cameras: their times, what is lost, and what is no video."""

import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dk_detr.data.frames import Frame, Latest, Screen, Video, Webcam
from tests.video_fixtures import av, greys, make_video


def brightness(frames: list[Frame]) -> list[float]:
    return [float(frame.rgb.mean()) for frame in frames]


def test_a_video_gives_its_frames_in_order_with_their_times(tmp_path):
    video = Video(str(make_video(tmp_path / "a.mp4")))
    assert (video.name, video.rate, video.has_sound) == ("a", 10, False) and video.duration == pytest.approx(1.2)
    frames = list(video.frames())
    assert brightness(frames) == pytest.approx(greys(12), abs=3)
    assert [frame.time for frame in frames] == pytest.approx(np.arange(12) / 10)
    assert frames[0].rgb.shape == (48, 64, 3) and video.complaints == []


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_start_and_every_choose_frames_and_keep_their_times(tmp_path, codec):
    make_video(tmp_path / "a.mp4", codec=codec)
    frames = list(Video(str(tmp_path / "a.mp4")).frames(start=0.45, every=3))
    assert [frame.time for frame in frames] == pytest.approx([0.5, 0.8, 1.1])
    assert brightness(frames) == pytest.approx([greys(12)[number] for number in (5, 8, 11)], abs=3)


def test_a_raw_stream_in_a_file_loses_no_frame_and_has_times_by_its_rate(tmp_path):
    with av.open(str(make_video(tmp_path / "a.mp4"))) as source, av.open(str(tmp_path / "a.h264"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    video = Video(str(tmp_path / "a.h264"))
    assert video.waits
    frames = list(video.frames())
    assert brightness(frames) == pytest.approx(greys(12), abs=3)
    assert (np.diff([frame.time for frame in frames]) > 0).all()


def test_a_video_of_a_phone_is_turned_as_it_says(tmp_path):
    """Against OpenCV, which turns it by itself."""
    import cv2

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:24, :32] = 255
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")), *stream.encode(None)])
    content, upright = path.read_bytes(), struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    track = content.index(upright, content.index(b"tkhd"))
    for turn in ((0, 1 << 16, 0, -1 << 16, 0), (0, -1 << 16, 0, 1 << 16, 0)):
        matrix = struct.pack(">9i", *turn, 0, 0, 0, 1 << 30)
        path.write_bytes(content[:track] + matrix + content[track + len(matrix) :])
        (frame,) = Video(str(path)).frames()
        assert frame.rgb.shape == (64, 48, 3)
        assert np.abs(frame.rgb[:, :, ::-1].astype(int) - cv2.VideoCapture(str(path)).read()[1]).mean() < 3


def test_frames_that_cannot_be_decoded_are_counted_and_the_others_come(tmp_path):
    path = make_video(tmp_path / "a.avi", codec="mpeg4")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    position, size = packets[4]
    header = content.index(b"\x00\x00\x01\xb6", position)
    content[header : header + size - 8] = b"\xff" * (size - 8)
    path.write_bytes(content)
    video = Video(str(path))
    assert len(list(video.frames())) < 12
    assert any("could not be decoded" in line or "damaged" in line for line in video.complaints)


def test_a_video_that_is_cut_short_says_what_is_missing(tmp_path):
    long = tmp_path / "long.mkv"
    with av.open(str(long), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        dice = np.random.default_rng(0)
        for _ in range(40):
            noise = dice.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    whole = long.read_bytes()
    long.write_bytes(whole[: len(whole) // 2])
    video = Video(str(long))
    frames = list(video.frames())
    assert 5 < len(frames) < 30
    assert any("announces 4.00 s" in line for line in video.complaints), video.complaints


def test_a_last_picture_that_stands_still_and_longer_sound_are_no_gap(tmp_path):
    still, sound = tmp_path / "still.mp4", tmp_path / "sound.mkv"
    with av.open(str(still), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        packets = []
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = round(5 / packets[-1].time_base)
        container.mux(packets)
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
        for number in range(80):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 16000, 1024 * number
            container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    for file in (still, sound):
        video = Video(str(file))
        assert video.duration > 4 and len(list(video.frames())) == 10
        assert not video.complaints


def test_what_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match="a.mp4 cannot be read as a video"):
        Video(str(tmp_path / "a.mp4"))
    with pytest.raises(FileNotFoundError, match="no video nowhere.mp4"):
        Video("nowhere.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 16000, 0
        container.mux([*audio.encode(silence), *audio.encode(None)])
    with pytest.raises(ValueError, match="no pictures, only sound"):
        Video(str(tmp_path / "sound.mp4"))
    with pytest.raises(ValueError, match="no camera 99"):
        Webcam(99)


def test_a_stream_that_is_silent_ends_in_an_error_after_its_time_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        begin = time.monotonic()
        with pytest.raises(ValueError, match="cannot be read as a video"):
            Video(f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4", timeout=0.5)
        assert time.monotonic() - begin < 5


def test_a_slow_reader_gets_the_latest_frame_and_the_others_are_counted():
    slow, closed = threading.Event(), threading.Event()

    def camera() -> Iterator[Frame]:
        try:
            yield Frame(np.zeros((2, 2, 3), np.uint8), 0.0)
            slow.wait(10)
            for number in range(1, 6):
                yield Frame(np.zeros((2, 2, 3), np.uint8), float(number))
        finally:
            closed.set()

    latest = Latest(camera())
    frames = iter(latest)
    assert next(frames).time == 0
    slow.set()
    assert closed.wait(10)
    assert [frame.time for frame in frames] == [5.0]
    assert latest.missed == 4


def test_an_error_of_a_camera_reaches_the_reader_and_leaving_early_closes_it():
    closed = threading.Event()

    def camera() -> Iterator[Frame]:
        try:
            while True:
                yield Frame(np.zeros((2, 2, 3), np.uint8), 0.0)
                time.sleep(0.001)
        finally:
            closed.set()

    frames = iter(Latest(camera()))
    next(frames)
    frames.close()
    assert closed.is_set()

    def broken() -> Iterator[Frame]:
        raise OSError("the cable is out")
        yield

    with pytest.raises(OSError, match="cable"):
        list(Latest(broken()))


def test_a_machine_without_a_screen_says_so(monkeypatch):
    pytest.importorskip("mss")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match="no screen 1"):
        Screen(1)
