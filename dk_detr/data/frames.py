"""Frames, one after the other: of video files, streams, cameras and the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dk_detr.utils.packages import optional_package

if TYPE_CHECKING:
    import av

PACKAGES = {"av": "videos and streams", "mss": "--screen"}
TIMEOUT = 10.0  # seconds that a stream may be silent


@dataclass(frozen=True)
class Frame:
    """(H, W, 3) uint8 RGB, and its time: seconds from the beginning of the video, or since the camera was opened."""

    rgb: np.ndarray
    time: float


class Source(Protocol):
    """Where frames come from.

    Attributes:
        name: for file names. waits: whether no frame is lost while nobody asks. rate: frames a second, about; None
            where nobody knows. duration: seconds; None where nobody knows, or there is no end. complaints: what went
            wrong while frames were read, in whole sentences.
    """

    name: str
    waits: bool
    rate: float | None
    duration: float | None
    complaints: list[str]

    def frames(self, start: float = 0.0, every: int = 1) -> Generator[Frame]:
        """From `start` (seconds) on, of every so many the first."""


class Video:
    """A video file, or a stream: http(s), rtsp and what else FFmpeg reads.

    Args:
        source: a file or an address. timeout: seconds after which a silent stream is an error.

    Raises: ImportError without PyAV; FileNotFoundError; ValueError for what is no video.
    """

    def __init__(self, source: str, timeout: float = TIMEOUT) -> None:
        av = package("av")
        self.source, is_stream = source, "://" in source
        if not is_stream and not Path(source).is_file():
            raise FileNotFoundError(f"There is no video {source}.")
        try:
            self._container: Any = av.open(source, timeout=(timeout, timeout) if is_stream else None)
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"{source} cannot be read as a video ({_reason(error)}).") from error
        if not self._container.streams.video:
            raise ValueError(f"{source} has no pictures, only sound.")
        self._stream: Any = self._container.streams.video[0]
        self.name = Path(source.split("?")[0].rstrip("/")).stem or "stream"
        self.rate = float(self._stream.average_rate) if self._stream.average_rate else None
        self.duration = self._length()
        self.waits = not is_stream or self.duration is not None
        self.has_sound = bool(self._container.streams.audio)
        self.complaints: list[str] = []
        self._undecoded = self._damaged = 0

    def _length(self) -> float | None:
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / 1e6  # microseconds

    def frames(self, start: float = 0.0, every: int = 1) -> Generator[Frame]:
        """Decoded as they are asked for, and turned as the file says. What cannot be decoded is counted."""
        number, last = 0, 0.0
        try:
            self._seek(start)
            end = 0.0
            for frame in self._decoded():
                last = self._time_of(frame, last)
                end = last + float(frame.duration or 0) * float(self._stream.time_base)
                if last < start:
                    continue
                if number % every == 0:
                    yield Frame(_upright(frame), last)
                number += 1
            self._tell_gap(last, end)
        finally:
            self._container.close()
            self._tell_losses()

    def _seek(self, start: float) -> None:
        """To the keyframe before; raises ValueError where the file cannot."""
        error_type = package("av").error.FFmpegError
        if start:
            offset = int(start / self._stream.time_base) + (self._stream.start_time or 0)
            try:
                self._container.seek(offset, stream=self._stream)
            except error_type as error:
                raise ValueError(f"{self.source} cannot be begun at {start:g} s ({_reason(error)}).") from error

    def _time_of(self, frame: av.VideoFrame, last: float) -> float:
        """As the frame says or, where a raw stream has no times, one frame after `last`."""
        if frame.pts is None:
            return last + 1 / (self.rate or 1.0)
        return float((frame.pts - (self._stream.start_time or 0)) * self._stream.time_base)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        error_type = package("av").error.FFmpegError
        for packet in self._packets(error_type):
            try:
                frames = packet.decode()
            except error_type:
                self._undecoded += 1
                continue
            for frame in frames:
                self._damaged += frame.is_corrupt
                yield frame

    def _packets(self, error_type: type[Exception]) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._stream)
        except error_type as error:
            self.complaints.append(f"{self.source} broke off ({_reason(error)}).")

    def _tell_gap(self, last: float, end: float) -> None:
        """Where much of what the file announces did not come. A last picture may stand still; and of a length that is
        the container's, the sound may be what is longer."""
        of_pictures = self._stream.duration is not None or not self.has_sound
        missing = self.duration - end if self.duration is not None and of_pictures else 0.0
        if missing > max(1.0, 3 / (self.rate or 1.0)):
            self.complaints.append(f"{self.source} announces {self.duration:.2f} s; its last frame is at {last:.2f} s.")

    def _tell_losses(self) -> None:
        if self._undecoded:
            self.complaints.append(f"{self._undecoded} frames of {self.source} could not be decoded.")
        if self._damaged:
            self.complaints.append(f"{self._damaged} frames of {self.source} are damaged; they were looked at.")


class Webcam:
    """A camera of this machine.

    Args:
        number: as the system counts them, from 0.

    Raises: ValueError where there is none.
    """

    def __init__(self, number: int = 0) -> None:
        import cv2

        self._camera = cv2.VideoCapture(number)
        if not self._camera.isOpened():
            raise ValueError(f"There is no camera {number}, or another program has it.")
        self.name, self.waits = f"webcam_{number}", False
        self.duration: float | None = None
        self.rate: float | None = self._camera.get(cv2.CAP_PROP_FPS) or None
        self.complaints: list[str] = []

    def frames(self, start: float = 0.0, every: int = 1) -> Generator[Frame]:
        """Until the camera gives no more."""
        begin, number = time.monotonic(), 0
        try:
            while (answer := self._camera.read())[0]:
                if number % every == 0:
                    yield Frame(np.ascontiguousarray(answer[1][:, :, ::-1]), time.monotonic() - begin)
                number += 1
            self.complaints.append(f"The camera stopped after {number} frames.")
        finally:
            self._camera.release()


class Screen:
    """What a screen shows, as often as frames are asked for.

    Args:
        number: 1 is the first screen; 0 is all of them together.

    Raises: ImportError without mss; ValueError where there is no such screen.
    """

    def __init__(self, number: int = 1) -> None:
        mss = package("mss")
        try:
            self._grabber: Any = mss.MSS()
            self._place = self._grabber.monitors[number]
        except (mss.exception.ScreenShotError, IndexError) as error:
            raise ValueError(f"There is no screen {number} to look at ({error}).") from error
        self.name, self.waits = f"screen_{number}", True
        self.rate: float | None = None
        self.duration: float | None = None
        self.complaints: list[str] = []

    def frames(self, start: float = 0.0, every: int = 1) -> Generator[Frame]:
        """Without end."""
        begin = time.monotonic()
        with self._grabber:
            while True:
                bgra = np.asarray(self._grabber.grab(self._place))
                yield Frame(np.ascontiguousarray(bgra[:, :, 2::-1]), time.monotonic() - begin)


class Latest:
    """Frames of a source that does not wait: whoever is slower than it gets the latest.

    Attributes:
        missed: number of frames that came and were followed by another before anybody asked.
    """

    def __init__(self, frames: Generator[Frame]) -> None:
        self.missed = 0
        self._frames, self._changed = frames, threading.Condition()
        self._latest: Frame | None = None
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def __iter__(self) -> Generator[Frame]:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            while (frame := self._take()) is not None:
                yield frame
        finally:
            self._stopped = True
            reader.join()
        if self._error is not None:
            raise self._error

    def _take(self) -> Frame | None:
        with self._changed:
            while self._latest is None and not self._ended:
                self._changed.wait(0.1)  # in pieces, so that Ctrl-C is heard
            frame, self._latest = self._latest, None
            return frame

    def _read(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    self.missed += self._latest is not None
                    self._latest = frame
                    self._changed.notify()
                if self._stopped:
                    break
        except BaseException as error:  # noqa: BLE001  raised in the thread that asks
            self._error = error
        finally:
            self._frames.close()
            with self._changed:
                self._ended = True
                self._changed.notify()


def package(name: str) -> Any:
    """An optional package. Raises ImportError that says what it is needed for."""
    return optional_package(name, f"{PACKAGES[name]} need")


def _upright(frame: Any) -> np.ndarray:
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
