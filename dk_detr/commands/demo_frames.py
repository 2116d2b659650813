"""What tools/demo.py does with videos, streams, cameras and the screen: a video of what was found, and its records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dk_detr.commands.demo_records import growing_list, record_of
from dk_detr.data.frames import Frame, Latest, Screen, Source, Video, Webcam, package
from dk_detr.detector import Detections
from dk_detr.visualization.video_file import video_file

INTERRUPTED = 130  # the exit status that shells give to Ctrl-C
RATE = 25.0  # frames a second, where a source does not say
LEAST = 0.001  # seconds between two frames


def check_frame_options(args: argparse.Namespace) -> None:
    """Raises ValueError for options that make no sense, or none with --input."""
    given = [f"--{name}" for name in ("start", "end") if getattr(args, name) is not None]
    given += ["--every"] if args.every != 1 else []
    if args.input and given:
        raise ValueError(f"{given[0]} counts with frames only, not with --input.")
    if args.start is not None and args.video_input is None:
        raise ValueError("--start counts with --video-input only: nothing else can be gone on with.")
    if args.every < 1 or args.timeout <= 0 or (args.start or 0.0) < 0:
        raise ValueError("--every must be at least 1, --timeout above 0, --start not below 0.")
    if args.end is not None and args.end <= (args.start or 0.0):
        raise ValueError(f"--end {args.end:g} must be later than --start {args.start or 0:g}.")


def source_of(args: argparse.Namespace) -> Source:
    """What --video-input, --webcam or --screen name. Raises ImportError, FileNotFoundError, ValueError."""
    package("av")  # writes the video, too
    if args.webcam is not None:
        return Webcam(args.webcam)
    if args.screen is not None:
        return Screen(args.screen)
    video = Video(args.video_input, args.timeout)
    if video.has_sound:
        print(f"{video.source} has sound; the video that is written has none.")
    return video


def detect_in_frames(
    look: Callable[[np.ndarray], Detections], source: Source, args: argparse.Namespace, legend: bool
) -> None:
    """Write a video and the JSON. Ctrl-C is how a camera is ended; of a video, it says how to go on.

    Args:
        legend: whether the star is explained below the pictures.

    Raises: ValueError where there is no frame. Ends with exit status 1 if frames were lost, 130 if interrupted.
    """
    start, output = args.start or 0.0, Path(args.output)
    after = f"_from_{start:.10g}s" if start else ""
    stem = _stem(f"{source.name}{after}", output, again=source.waits)
    target, records = output / f"{stem}.mp4", output / f"{stem}.json"
    _refuse_to_overwrite(target, args.video_input)
    frames, rate = source.frames(start, args.every), (source.rate or RATE) / args.every
    latest, done = None if source.waits else Latest(frames), _Done()
    with closing(frames if latest is None else iter(latest)) as coming:
        first = next(coming, None)
        if first is None:
            raise ValueError(" ".join([_nothing(source, start), *source.complaints]))
        shown = tqdm(chain([first], coming), total=_number(source, args), unit="frame", desc=source.name)
        with shown, growing_list(records) as add, video_file(target, rate) as pictures, _interruptible(done):
            for frame in shown:
                if args.end is not None and frame.time >= args.end:
                    break
                found = look(frame.rgb)
                pictures.add(np.asarray(found.draw(legend)), frame.time)
                add(record_of(found, args.video_input or source.name, time=round(frame.time, 4)))
                done.add(frame)
    if done.number:
        print(f"{done.number} frames, {done.first:.2f} to {done.last:.2f} s, are in {target}, and in {records.name}.")
    if latest is not None and latest.missed:
        print(f"{latest.missed} frames came while the detector was busy, and were not looked at.")
    _end(done, source, args)


def _stem(name: str, output: Path, again: bool) -> str:
    """Of the names of video and records. What cannot be looked at `again`, as a camera's, is never overwritten."""
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    there = [] if again or not output.is_dir() else [path.name for path in output.iterdir()]
    return next(stem for stem in names if not any(file.startswith(f"{stem}.") for file in there))


def _end(done: _Done, source: Source, args: argparse.Namespace) -> None:
    """What is to be said of how it ended, and the exit status."""
    if source.complaints:
        print(*source.complaints, sep="\n", file=sys.stderr)
    if done.interrupted and args.video_input is not None and source.waits:
        print(f"Interrupted. To go on: --start {_next(done, source, args):.3f}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if source.complaints:
        sys.exit(1)


@dataclass
class _Done:
    """How far it came; times in seconds."""

    number: int = 0
    first: float = 0.0
    last: float = 0.0
    interrupted: bool = False

    def add(self, frame: Frame) -> None:
        self.first = self.first if self.number else frame.time
        self.number, self.last = self.number + 1, frame.time


@contextmanager
def _interruptible(done: _Done) -> Iterator[None]:
    """Ctrl-C ends the block; of an error it says how far it came."""
    try:
        yield
    except KeyboardInterrupt:
        done.interrupted = True
    except Exception:
        print(f"Broke off after {done.number} frames, at {done.last:.2f} s.", file=sys.stderr)
        raise


def _number(source: Source, args: argparse.Namespace) -> int | None:
    """Of frames to come, about; None where nobody knows."""
    if source.rate is None or (source.duration is None and args.end is None):
        return None
    end = min(time for time in (source.duration, args.end) if time is not None)
    return max(1, round((end - (args.start or 0.0)) * source.rate / args.every))


def _next(done: _Done, source: Source, args: argparse.Namespace) -> float:
    """A time after the last frame that is done, and not after the next one to look at: of every frame just after it,
    whatever the rate; of one in K by the average rate."""
    if not done.number:
        return args.start or 0.0
    return done.last + (LEAST if args.every == 1 else (args.every - 0.5) / (source.rate or RATE))


def _nothing(source: Source, start: float) -> str:
    length = "" if source.duration is None else f" It is {source.duration:.2f} s long."
    return f"{source.name} has no frame that can be decoded{f' from {start:g} s on' if start else ''}.{length}"


def _refuse_to_overwrite(target: Path, video: str | None) -> None:
    if video is not None and target.exists() and Path(video).exists() and target.samefile(video):
        raise ValueError(f"--output {target.parent} would overwrite the video {video}; choose another folder.")
