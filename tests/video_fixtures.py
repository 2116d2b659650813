"""Videos that tests make, and how they look into those that were written."""

from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

RATE = 10  # frames a second
SIZE = (64, 48)  # width, height


def make_video(path: Path, number: int = 12, sound: bool = False, codec: str = "libx264") -> Path:
    """Grey frames, each a little lighter than the one before, so that a frame says its number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for grey in greys(number):
            pixels = np.full((SIZE[1], SIZE[0], 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 16000, 0
            container.mux([*audio.encode(silence), *audio.encode(None)])
    return path


def greys(number: int) -> list[int]:
    """Of each frame."""
    return [40 + 15 * frame for frame in range(number)]


def frames_of(path: Path) -> tuple[str, str, list[float], list[np.ndarray]]:
    """Codec, pixel format, times and pictures of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        times = [float(frame.pts * stream.time_base) for frame in decoded]
        pictures = [frame.to_ndarray(format="rgb24") for frame in decoded]
        return stream.codec.canonical_name, stream.pix_fmt, times, pictures
