"""The page, made with Gradio: where things stand on it, and what happens when they are used.

It needs no other host: Gradio's fonts and statistics are off, and CONTENT_SECURITY forbids browsers to ask one.
"""

from __future__ import annotations

import html
import json
import logging
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dk_detr.commands.web_demo.sight import LEAST_SCORE, Sight, look, read_upload, to_show
from dk_detr.commands.web_demo.words import TYPED, choices, vocabularies
from dk_detr.detector import Detector
from dk_detr.detector.detector import THRESHOLD

logger = logging.getLogger(__name__)

CONTENT_SECURITY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; object-src 'none'; "
    "form-action 'self'"
)
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#status { min-height: 1.6em; font-size: 1.05em; }
#status .problem { color: var(--error-text-color, #b91c1c); font-weight: 600; }
"""
MEMORY = "dk_detr_web_demo"  # its name in the browser's local storage
DAY = 24 * 60 * 60  # seconds
VISITORS = 200  # whose picture is kept in memory, each of at most 10 MB
WAITING = 50  # pictures; the next visitor is told that the page is busy


class Page:
    """The page of one detector, for any number of visitors.

    What a visitor sees is in the session; what comes back at the next visit is in the visitor's browser.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.vocabulary = vocabularies(detector)
        self.choices = choices(detector)
        self.blocks = self._build()

    def open(self, host: str, port: int | None, max_megabytes: float) -> str:
        """Serve it, in threads of its own; returns its address. Raises OSError where the port is taken."""
        try:
            self.blocks.launch(
                server_name=host, server_port=port, max_file_size=int(max_megabytes * 2**20), share=False, quiet=True,
                prevent_thread_lock=True, inbrowser=False, ssr_mode=False, pwa=False, mcp_server=False,
                run_history=False, enable_monitoring=False, footer_links=[], css=CSS, theme=_theme(),
                state_session_capacity=VISITORS, app_kwargs={"middleware": [Middleware(SameHostOnly)]},
            )  # fmt: skip
        except OSError as error:
            problem = f"{host}:{port} cannot be opened. If another program has it, name another --port."
            raise OSError(problem) from error
        return str(self.blocks.local_url)

    def wait(self) -> None:
        """Until Ctrl-C, or until the process is asked to end."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.blocks.block_thread()

    def close(self) -> None:
        """Serve it no more."""
        self.blocks.close()

    def _build(self) -> gr.Blocks:
        with gr.Blocks(title="DK-DETR", analytics_enabled=False, delete_cache=(DAY // 24, DAY)) as blocks:
            memory = gr.BrowserState(None, storage_key=MEMORY, secret=MEMORY)
            sight, path = gr.State(None), gr.State(None)
            gr.Markdown("# Find anything in a picture")
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    picture = gr.File(label="Picture", height=130, elem_id="picture")
                    choice = gr.Radio(self.choices, value=TYPED, label="Look for", elem_id="choice")
                    text = gr.Textbox(
                        label="My words", placeholder="cat, paper cup, red jacket", lines=2, max_lines=8,
                        info="Separated by commas.", elem_id="words",
                    )  # fmt: skip
                    find = gr.Button("Find", variant="primary", elem_id="find")
                with gr.Column(scale=2, min_width=480):
                    shown = gr.Image(
                        label="Found", type="pil", format="jpeg", interactive=False, height=560, elem_id="shown",
                        buttons=["download", "fullscreen"],
                    )  # fmt: skip
                    status = gr.HTML(_said("Drop a picture, and say what to look for."), elem_id="status")
                    threshold = gr.Slider(
                        LEAST_SCORE, 1.0, THRESHOLD, step=0.01, label="Threshold", elem_id="threshold",
                        info="The least score of what is shown.",
                    )  # fmt: skip
                    save = gr.DownloadButton("Download as JSON", interactive=False, elem_id="save")
            outputs = [shown, status, save]
            taken = picture.upload(
                _take, picture, [path, picture], trigger_mode="always_last", show_progress="hidden", queue=False,
                api_visibility="private",
            )  # fmt: skip
            for asked in (taken.then, find.click):
                asked(
                    self.find, [path, choice, text, threshold, memory], [*outputs, sight, memory],
                    trigger_mode="always_last", show_progress_on=shown, concurrency_limit=1, api_visibility="private",
                )  # fmt: skip
            threshold.input(
                self.show, [sight, threshold, memory], [*outputs, memory], trigger_mode="always_last",
                show_progress="hidden", concurrency_limit=4, api_visibility="private",
            )  # fmt: skip
            choice.change(_words_visible, choice, text, show_progress="hidden", api_visibility="private")
            blocks.load(self.remember, memory, [choice, text, threshold], api_visibility="private")
        return blocks.queue(max_size=WAITING)

    def find(
        self, path: str | None, choice: str, text: str, threshold: float, memory: Any
    ) -> tuple[Any, str, Any, Sight | None, Any]:
        """Detect, and show what was found. What is wrong is said in a sentence; then the picture has no boxes.

        Returns: picture, sentence, file to download, sight, and what the browser is to remember.
        """
        rgb = None
        try:
            if path is None:
                raise ValueError("Drop a picture first.")
            rgb = read_upload(path)
            sight = look(self.detector, rgb, Path(path).name, self.vocabulary(choice, text))
            return *self._shown(sight, threshold), sight, {"choice": choice, "words": text, "threshold": threshold}
        except Exception as error:  # noqa: BLE001  a visitor sees a sentence, whatever it is
            bare = None if rgb is None else Image.fromarray(to_show(rgb))
            nothing = gr.DownloadButton(value=None, interactive=False)
            return bare, _said(_reason(error), "problem"), nothing, None, memory

    def show(self, sight: Sight | None, threshold: float, memory: Any) -> tuple[Any, Any, Any, Any]:
        """The same sight with another threshold: the detector is not asked."""
        if sight is None:
            return gr.skip(), gr.skip(), gr.skip(), memory
        return *self._shown(sight, threshold), {**_dictionary(memory), "threshold": threshold}

    def remember(self, memory: Any) -> tuple[str, str, float]:
        """Choice, words and threshold of the last visit. What a browser brings may be anything."""
        kept = _dictionary(memory)
        choice, text, threshold = kept.get("choice"), kept.get("words"), kept.get("threshold")
        known = {name for _, name in self.choices}
        return (
            choice if isinstance(choice, str) and choice in known else TYPED,
            text if isinstance(text, str) else "",
            min(max(LEAST_SCORE, threshold), 1.0) if isinstance(threshold, int | float) else THRESHOLD,
        )

    def _shown(self, sight: Sight, threshold: float) -> tuple[Image.Image, str, Any]:
        file = _json_file(sight, threshold)
        return sight.draw(threshold), _said(sight.say(threshold)), gr.DownloadButton(value=file, interactive=True)


class SameHostOnly:
    """Tells browsers to ask no other host for anything, nor to say which page a link was on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to each answer."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {"content-security-policy": CONTENT_SECURITY, "referrer-policy": "same-origin"}
                message["headers"] = [
                    *message.get("headers", []), *((key.encode(), value.encode()) for key, value in headers.items())
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, answer)


def _theme() -> Any:
    fonts, monospace = FONTS
    return gr.themes.Default(font=list(fonts), font_mono=list(monospace))


def _take(path: str | None) -> tuple[str | None, None]:
    """The field is empty at once, so that the next picture can be dropped."""
    return path, None


def _words_visible(choice: str) -> Any:
    return gr.Textbox(visible=choice == TYPED)


def _json_file(sight: Sight, threshold: float) -> str:
    """COCO's records in a new file below GRADIO_TEMP_DIR, where Gradio serves it and later removes it."""
    folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
    file = Path(folder) / f"{Path(sight.file).stem}.json"
    file.write_text(json.dumps(sight.records(threshold)), encoding="utf-8")
    return str(file)


def _said(sentence: str, kind: str = "answer") -> str:
    role = "alert" if kind == "problem" else "status"
    return f'<div class="{kind}" role="{role}">{html.escape(sentence)}</div>'


def _reason(error: Exception) -> str:
    """What to tell a visitor; of what should not happen the log says more."""
    if isinstance(error, ValueError | FileNotFoundError):
        return str(error)
    logger.exception("A picture could not be done.")
    return "Something went wrong; the log of the server says what."


def _dictionary(memory: Any) -> dict[str, Any]:
    return memory if isinstance(memory, dict) else {}
