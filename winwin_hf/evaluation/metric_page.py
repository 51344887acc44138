"""The page of the Spaces of the evaluate modules: two files in, the scores and a picture of the errors out.

evaluate's own widget (evaluate.utils.launch_gradio_widget) needs `gradio.inputs`, gone since Gradio 4, and takes tables, not maps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from winwin_hf.model.pixels_winwin import LIMIT
from winwin_hf.served_page import Limits, WorkFolder, file_name, refuse, serve

LIMITS = Limits(file_bytes=64 << 20, client_upload_bytes=1 << 30)  # a flow file of 1080p has 16 MB, and scores need two
MAX_PIXELS = 16_000_000  # of a map: twice those of 4K; scores and pictures take some hundred bytes a pixel
Readers = Mapping[str, Callable[[str], np.ndarray]]  # suffix, such as ".npy" -> reader
Scores = tuple[list[list[Any]], np.ndarray]  # rows (name, value) of the table, and a picture, uint8 RGB


@dataclass(frozen=True)
class MetricPage:
    """
    Attributes:
        quantity: what the files hold, such as "flow".
        readers: of the files that can be uploaded.
        score: called with the prediction's file, the truth's file and the values of the settings. Raises ValueError or OSError
            with a reason that the page shows.
        settings: makes the page's further inputs, Gradio components.
        title, text: of the page; the text is Markdown.
    """

    quantity: str
    readers: Readers
    score: Callable[..., Scores]
    settings: Callable[[], list[Any]]
    title: str
    text: str

    def answer(self, prediction_file: str | None, truth_file: str | None, *settings: Any) -> Scores:
        """`score`, with what is wrong with a file as a gradio.Error."""
        if prediction_file is None or truth_file is None:
            raise refuse("Upload both files first.")
        try:
            return self.score(prediction_file, truth_file, *settings)
        except (ValueError, OSError) as error:
            message = str(error)
            for path in (prediction_file, truth_file):  # the file's own name, not this server's path
                message = message.replace(path, file_name(path))
            raise refuse(message) from error

    def build(self) -> Any:
        """The page, a gradio.Blocks."""
        import gradio as gr

        suffixes = list(self.readers)
        with gr.Blocks(title=f"{self.title} scores") as page:
            gr.Markdown(f"# {self.title}\n{self.text}")
            with gr.Row():
                prediction = gr.File(label=f"predicted {self.quantity}", file_types=suffixes, type="filepath")
                truth = gr.File(label=f"true {self.quantity}", file_types=suffixes, type="filepath")
            with gr.Row():
                settings = self.settings()
            button = gr.Button("Score", variant="primary")
            figures = gr.Dataframe(headers=["score", "value"], label="scores", interactive=False)
            picture = gr.Image(label="where the errors are", interactive=False)
            button.click(self.answer, [prediction, truth, *settings], [figures, picture])
        return page

    def launch(self, **options: Any) -> None:
        """Serves the page until it is stopped; options are those of `gradio.Blocks.launch`."""
        os.environ.setdefault(LIMIT, str(MAX_PIXELS))
        with WorkFolder("winwin-metric") as folder:
            serve(self.build(), folder, LIMITS, **options)


def read_map(path: str, readers: Readers) -> np.ndarray:
    """What the reader of the file's suffix returns. Raises ValueError for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{Path(path).name}: expected one of {', '.join(readers)}")
    return readers[suffix](path)
