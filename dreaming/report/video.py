"""Dream and truth side by side in one small MP4 that every browser plays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

MARGIN = 8  # pixels around and between the two panels
BAR = 30  # pixels for the title above and the captions below the panels
BACKGROUND, INK, MUTED = (22, 24, 29), (238, 240, 244), (160, 166, 178)
GHOST = np.array([0.80, 0.78, 1.00], np.float32)  # violet: the page draws the dream in the same colour
SHORTEST_S = 2.0  # shorter clips are slowed down, and say so
HOLD_S = 1.0  # the last picture stays this long before the loop starts again


def side_by_side(
    path: Path,
    dream_frames: Sequence[np.ndarray],
    truth_frames: Sequence[np.ndarray],
    *,
    hz: float,
    title: str = "",
    dream_caption: str = "dream",
    truth_caption: str = "simulator, same commands",
    dream_end: str = "ended",
    truth_end: str = "ended",
) -> Path:
    """Writes an MP4 (H.264, yuv420p) with the dream, tinted as a ghost, left of the truth.

    Frames are uint8 (H, W, 3), one a control step, all of one size. Where one side has fewer, its last frame stays,
    darkened, with its `_end` text (why it ended). `hz` is the control rate; clips shorter than two seconds are
    slowed down by a power of two, which the picture states. The file appears complete or not at all.
    """
    if not dream_frames or not truth_frames:
        raise ValueError("side_by_side needs at least one frame of the dream and one of the truth")
    shape = dream_frames[0].shape
    for side, frames in (("dream", dream_frames), ("truth", truth_frames)):
        for i, frame in enumerate(frames):
            if frame.shape != shape or frame.dtype != np.uint8 or frame.shape[-1] != 3:
                raise ValueError(f"{side} frame {i} is {frame.dtype} {frame.shape}, not uint8 {shape} (H, W, 3)")
    count = max(len(dream_frames), len(truth_frames))
    slowdown = 1
    while count / hz * slowdown < SHORTEST_S and slowdown < 16:
        slowdown *= 2
    speed = "" if slowdown == 1 else f"1/{slowdown} speed  "

    pictures = []
    for t in range(count):
        panels = [
            (_panel(dream_frames, t, ghost=True), dream_caption, dream_end if t >= len(dream_frames) else ""),
            (_panel(truth_frames, t, ghost=False), truth_caption, truth_end if t >= len(truth_frames) else ""),
        ]
        pictures.append(_compose(panels, title, f"{speed}{t / hz:.2f} s"))
    rate = Fraction(hz / slowdown).limit_denominator(1000)
    pictures += [pictures[-1]] * max(1, round(HOLD_S * float(rate)))
    return _encode(path, pictures, rate)


def _panel(frames: Sequence[np.ndarray], t: int, ghost: bool) -> np.ndarray:
    frame = frames[min(t, len(frames) - 1)].astype(np.float32)
    if ghost:
        grey = frame.mean(-1, keepdims=True)  # (H, W, 1)
        frame = 0.4 * frame + 0.6 * (70.0 + 0.73 * grey) * GHOST
    if t >= len(frames):
        frame *= 0.45
    return frame.clip(0, 255).astype(np.uint8)


def _compose(panels: list[tuple[np.ndarray, str, str]], title: str, clock: str) -> np.ndarray:
    from PIL import Image, ImageDraw

    height, width = panels[0][0].shape[:2]
    total_width, total_height = 2 * width + 3 * MARGIN, height + 2 * BAR
    # yuv420p halves the colour planes, so both sides must be even
    picture = Image.new("RGB", (total_width + total_width % 2, total_height + total_height % 2), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    big, small = _font(15), _font(13)
    clock_width = draw.textlength(clock, small)
    draw.text((MARGIN, BAR / 2), _fit(draw, title, big, total_width - clock_width - 4 * MARGIN), INK, big, "lm")
    draw.text((total_width - MARGIN, BAR / 2), clock, MUTED, small, "rm")
    for i, (frame, caption, end) in enumerate(panels):
        x = MARGIN + i * (width + MARGIN)
        picture.paste(Image.fromarray(frame), (x, BAR))
        colour = tuple(int(255 * c) for c in GHOST) if i == 0 else INK
        draw.text((x, BAR * 1.5 + height), _fit(draw, caption, small, width), colour, small, "lm")
        if end:
            draw.text((x + width / 2, BAR + height / 6), _fit(draw, end, big, width), INK, big, "mm")
    return np.asarray(picture)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fit(draw, text: str, font, width: float) -> str:
    """Shortens the text until it fits."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _encode(path: Path, pictures: list[np.ndarray], rate: Fraction) -> Path:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        # faststart puts the index first, so that a browser plays it straight from a data URI
        with av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            options = {"crf": "27", "preset": "medium", "threads": "1"}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
