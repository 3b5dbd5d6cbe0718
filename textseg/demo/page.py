"""The page: what it asks for, and what it shows of a visitor's session."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from textseg import __version__
from textseg.demo import markup
from textseg.demo.networks import MOST_LETTERS, Networks
from textseg.demo.opening import WINDOWS, Opener
from textseg.demo.session import MOST_SESSIONS, Session, Sessions, questions_of, words_of
from textseg.demo.style import CSS
from textseg.errors import UserError, first_line

TITLE = "textseg: try words on a picture"
NOTICE = (
    "<b>Research use only. Not a medical device.</b> Do not decide on a patient by what this page "
    "shows."
)
AS_OPENED = "as opened"
OWN = "level and width below"
_FILES = (
    "A picture (PNG, JPEG, TIFF, ...), a NIfTI or DICOM volume as one file, or all files of one "
    "DICOM series. They are deleted here once they are read."
)
_WORDS = (
    "Say what to look for, in the words that the network was trained on. A second expression is "
    "answered beside the first."
)
_ALL_WORDS = "all words"

Updates = dict[Any, Any]
"""New values of parts of the page."""
UNCHANGED: Updates = {}
Act = Callable[..., Updates | None]
Show = Callable[[Session], Updates]


def application(networks: Networks, opener: Opener, sessions: Sessions) -> FastAPI:
    """The page as an application of ASGI."""
    page = Page(networks, opener, sessions)
    own = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return gr.mount_gradio_app(
        own,
        page.blocks,
        path="/",
        theme=gr.themes.Base(font=["Arial", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        allowed_paths=[],
    )


class Page:
    """The parts of the page and what they do.

    Args:
        networks: to choose from.
        opener: opens what visitors send.
        sessions: of the visitors.
    """

    def __init__(self, networks: Networks, opener: Opener, sessions: Sessions) -> None:
        self.networks, self.opener, self.sessions = networks, opener, sessions
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600)) as blocks:
            self._head()
            with gr.Row(equal_height=False):
                with gr.Column(min_width=300):
                    self._picture()
                with gr.Column(min_width=300):
                    self._words()
            self.error = gr.HTML("")
            self.view = gr.HTML(markup.EMPTY, elem_id="view")
            self._explanation()
            self._connect(blocks)
        blocks.queue(default_concurrency_limit=4, max_size=64)
        blocks.state_session_capacity = 4 * MOST_SESSIONS
        self.blocks = blocks

    # --- what there is -------------------------------------------------------------------------

    def _head(self) -> None:
        names = markup.text_of("; ".join(self.networks.names))
        gr.HTML(
            f'<div class="head"><h1>{TITLE}</h1><p>{names} (textseg {__version__})</p></div>'
            f'<div class="caution" role="note">{NOTICE}</div>'
        )

    def _picture(self) -> None:
        gr.HTML(f'<h2>1. Picture</h2><p class="note">{_FILES}</p>')
        self.file = gr.File(label="Picture or volume", file_count="multiple", height=140)
        with gr.Accordion("A file of several volumes", open=False):
            self.channel = gr.Number(
                label="Which one, counted from 0 (set it before the file is chosen)",
                precision=0,
                value=None,
            )
        self.phantom = gr.Button("Take the next phantom")
        self.status = gr.HTML("")
        with gr.Group(visible=False) as self.volume:
            self.slice = gr.Slider(0, 1, step=1, label="Slice, from the feet upward", buttons=[])
            self.window = gr.Dropdown(
                [AS_OPENED, *WINDOWS, OWN], value=AS_OPENED, label="Window", filterable=False
            )
            with gr.Row():
                self.level = gr.Number(label="Level (center)", min_width=100)
                self.width = gr.Number(label="Width", min_width=100)

    def _words(self) -> None:
        gr.HTML(f'<h2>2. Words</h2><p class="note">{_WORDS}</p>')
        reads = self.networks.takes_text
        self.text = gr.Textbox(
            label="Expression" if reads else "Expression (this network reads none)",
            placeholder="the small lesion in the upper left",
            max_length=MOST_LETTERS,
            max_lines=1,
        )
        self.other_text = gr.Textbox(
            label="Second expression, beside it (may stay empty)",
            max_length=MOST_LETTERS,
            max_lines=1,
        )
        choices = [(name, number) for number, name in enumerate(self.networks.names)]
        several = len(choices) > 1
        self.network = gr.Dropdown(
            choices, value=0, label="Network", visible=several, filterable=False
        )
        self.other_network = gr.Dropdown(
            choices, value=0, label="Network of the second", visible=several, filterable=False
        )
        self.ask = gr.Button("Segment", variant="primary")

    def _explanation(self) -> None:
        with gr.Column(visible=False) as self.explained:
            gr.HTML("<h2>3. Which parts of the picture does a word concern?</h2>")
            self.word = gr.Radio([], label="Choose a word", value=None)
            self.maps = gr.HTML("")

    def _connect(self, blocks: gr.Blocks) -> None:
        seen = [self.status, self.view, self.error, self.explained, self.word, self.maps]
        volume = [self.volume, self.slice, self.window, self.level, self.width]
        everything = [*seen, *volume, self.text, self.other_text, self.file]
        own: dict[str, Any] = {"api_visibility": "private"}
        taken = self._answer(self._open, self._opened, self._file_gone)
        self.file.upload(taken, [self.file, self.channel], everything, **own)
        drawn = self._answer(self._take_phantom, self._opened, self._file_gone)
        self.phantom.click(drawn, None, everything, **own)
        questions = [self.text, self.network, self.other_text, self.other_network]
        asked = [self.ask.click, self.text.submit, self.other_text.submit]
        gr.on(asked, self._answer(self._segment, self._shown), questions, seen, **own)
        own |= {"trigger_mode": "always_last", "show_progress": "hidden"}
        self.slice.input(self._answer(self._move, self._shown), [self.slice], seen, **own)
        windowed = [*seen, self.window, self.level, self.width]
        named = self._answer(self._name_window, self._windowed)
        self.window.input(named, [self.window], windowed, **own)
        numbers = [self.level.submit, self.level.blur, self.width.submit, self.width.blur]
        set_to = self._answer(self._set_window, self._shown)  # the other one may be typed by now
        gr.on(numbers, set_to, [self.level, self.width], [*seen, self.window], **own)
        explained = self._answer(self._explain, lambda session: {})
        self.word.input(explained, [self.word], [self.maps, self.error], **own)
        blocks.unload(self._leave)

    # --- what it does --------------------------------------------------------------------------

    def _answer(
        self, act: Act, show: Show, otherwise: Show | None = None
    ) -> Callable[..., Updates]:
        """A handler of an event: acts on the visitor's session and shows it, errors too.

        Args:
            act: given the session and the values of the event's inputs. What it returns is shown
                too; `UNCHANGED` leaves the page as it is.
            show: of the session, what changes on the page.
            otherwise: the same where `act` failed.
        """

        def answer(request: gr.Request, *given: Any) -> Updates:
            session = self.sessions.of(str(request.session_hash))
            try:
                more = act(session, *given)
                shown = {} if more is UNCHANGED else {**show(session), **(more or {})}
                return {**shown, self.error: ""}
            except UserError as error:
                mistake = error
            except Exception as error:  # a fault of ours, which the terminal tells in full
                traceback.print_exception(error)
                mistake = UserError(
                    f"something failed that should not ({first_line(error)})",
                    "the terminal of textseg demo tells more; try another picture",
                )
            return {**(otherwise or show)(session), self.error: markup.error_box(mistake)}

        return answer

    def _open(self, session: Session, files: Any, channel: float | None) -> None:
        paths = [Path(file) for file in files or []]
        session.open(self.opener, paths, None if channel is None else int(channel))

    def _take_phantom(self, session: Session) -> Updates:
        first, second, *_ = *session.take_phantom(self.opener).expressions, "", ""
        return {self.text: first, self.other_text: second}

    def _segment(
        self, session: Session, text: str, network: int, other_text: str, other_network: int
    ) -> None:
        asked = questions_of(text or "", network or 0, other_text or "", other_network or 0)
        session.segment(self.networks, asked)

    def _move(self, session: Session, z: float) -> None:
        session.look(self.networks, int(z))

    def _name_window(self, session: Session, name: str) -> Updates:
        if name != OWN:
            session.look(self.networks, session.z, "" if name == AS_OPENED else name)
        return {self.window: name}

    def _set_window(self, session: Session, level: float | None, width: float | None) -> Updates:
        if session.source is None or session.source.center_width == (level, width):
            return UNCHANGED
        session.look(self.networks, session.z, f"{level},{width}")
        return {self.window: OWN}

    def _explain(self, session: Session, chosen: str) -> Updates:
        number, _, word = chosen.partition(":")
        maps = session.explain(self.networks, int(number), word or None)
        assert session.source is not None
        picture, text = (
            session.source.picture(session.z),
            session.findings[int(number)].question.text,
        )
        return {self.maps: markup.explanation(picture, maps, text, word or None)}

    def _leave(self, request: gr.Request) -> None:
        self.sessions.close(str(request.session_hash))

    # --- what it shows -------------------------------------------------------------------------

    def _shown(self, session: Session) -> Updates:
        """The picture and its findings; a word can be chosen where there are some."""
        choices = self._choices(session)
        return {
            self.status: markup.status_box(markup.opened_lines(session)),
            self.view: markup.view(session),
            self.explained: gr.update(visible=bool(choices)),
            self.word: gr.update(choices=choices, value=None),
            self.maps: "",
        }

    def _windowed(self, session: Session) -> Updates:
        level, width = (session.source and session.source.center_width) or (None, None)
        return {**self._shown(session), self.level: level, self.width: width}

    def _opened(self, session: Session) -> Updates:
        source = session.source
        assert source is not None
        has_window = source.center_width is not None
        last = max(1, source.slices - 1)
        return {
            **self._windowed(session),
            **self._file_gone(session),
            self.volume: gr.update(visible=has_window or source.slices > 1),
            self.slice: gr.update(maximum=last, value=session.z, visible=source.slices > 1),
            self.window: gr.update(value=AS_OPENED, visible=has_window),
        }

    def _file_gone(self, session: Session) -> Updates:
        """What was sent is deleted: the field is empty again."""
        return {self.file: None}

    def _choices(self, session: Session) -> list[tuple[str, str]]:
        """The words of what was asked, each with the number of its question."""
        several = len(session.findings) > 1
        choices = []
        for number, finding in enumerate(session.findings):
            letter = f"{markup.LETTERS[number]}: " if several else ""
            choices.append((f"{letter}{_ALL_WORDS}", f"{number}:"))
            if self.networks.takes_text:
                words = words_of(finding.question.text)
                choices += [(f"{letter}{word}", f"{number}:{word}") for word in words]
        return choices
