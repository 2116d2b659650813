"""A video that browsers play: MP4, H.264, yuv420p."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dk_detr.utils import atomic_file

TICK = Fraction(1, 90_000)  # seconds
KEYFRAMES = 12  # frames between two; a run that is killed loses at most so many
ENCODING = {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}
UNFINISHED = ".unfinished.mp4"  # plays, too


class VideoFile:
    """Takes pictures with their times. Pictures follow one another as in time, whatever the pauses between them.

    Args:
        path: an .mp4. rate: pictures a second, about.

    Raises: ImportError without PyAV.
    """

    def __init__(self, path: Path, rate: float) -> None:
        import av

        self._av, self.path = av, path
        self.unfinished = path.with_name(path.stem + UNFINISHED)
        self._rate = Fraction(rate).limit_denominator(1000)
        self._container: Any = None
        self._stream: Any = None
        self._first, self._last = 0.0, -1

    def add(self, picture: np.ndarray, time: float) -> None:
        """Append (H, W, 3) uint8 RGB, scaled to the size of the first; `time` in seconds grows."""
        if self._container is None:
            self._open(picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2, time)
        size = (self._stream.width, self._stream.height)
        if (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2) != size:
            picture = np.asarray(Image.fromarray(picture).resize(size))
        cut = np.ascontiguousarray(picture[: size[1], : size[0]])  # yuv420p has even sides only
        frame = self._av.VideoFrame.from_ndarray(cut, format="rgb24")
        self._last = max(self._last + 1, round((time - self._first) / TICK))
        frame.pts, frame.time_base = self._last, TICK
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file: what was added until now is in it."""
        if self._container is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        with atomic_file(self.path) as part:
            self._repack(part)
        self.unfinished.unlink()

    def _open(self, width: int, height: int, time: float) -> None:
        """In fragments, each of which plays without those that follow."""
        fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        self._container = self._av.open(str(self.unfinished), "w", format="mp4", options=fragments)
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=ENCODING)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.gop_size, self._stream.codec_context.time_base = KEYFRAMES, TICK
        self._first = time

    def _repack(self, path: Path) -> None:
        """The same pictures with the index in front, as players want it."""
        with (
            self._av.open(str(self.unfinished)) as source,
            self._av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)


@contextmanager
def video_file(path: Path, rate: float) -> Iterator[VideoFile]:
    """A file that is finished when the block ends, also by an error or Ctrl-C. Of a process that is killed, the
    pictures so far are in `<stem>.unfinished.mp4`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = VideoFile(path, rate)
    try:
        yield file
    finally:
        file.close()
