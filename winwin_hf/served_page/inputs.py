"""The values of a request, checked before Gradio touches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from winwin_hf.served_page.files import own_file
from winwin_hf.served_page.limits import MOST, file_name, kind_of, refuse


def guard_inputs(page: Any, files: Path) -> None:
    """Makes `page` check the values of each request before Gradio touches them."""
    preprocess = page.preprocess_data

    async def checked(block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> list[Any]:
        import gradio as gr

        if len(inputs) != len(block_fn.inputs):
            raise refuse(f"Expected {len(block_fn.inputs)} values, got {len(inputs)}.")
        values = [_value(block, value, files) for block, value in zip(block_fn.inputs, inputs, strict=True)]
        try:
            return await preprocess(block_fn, values, *more, **options)
        except gr.Error as error:
            raise refuse(error.message) from None
        except Exception as error:  # whatever a component raises on another type
            raise refuse(f"A value of the request can't be used ({type(error).__name__}).") from None

    page.preprocess_data = checked


def _value(block: Any, value: Any, files: Path) -> Any:
    """The value, with nothing of a file's description left but its path. Raises gradio.Error for one that `block` can't have."""
    import gradio as gr

    label = getattr(block, "label", None) or type(block).__name__
    if value is None and not isinstance(
        block, gr.Dataset | gr.Slider | gr.Radio
    ):  # which always have a value on the page
        return None
    if isinstance(block, gr.Image | gr.Video | gr.File):
        if not isinstance(value, dict):
            raise refuse(f"{label}: expected an uploaded file, got {kind_of(value)}.")
        path = value.get("path")
        if not isinstance(path, str) or not path:
            raise refuse(f"{label}: send an uploaded file; pictures inside the request (data: URLs) are not taken.")
        found = own_file(path, files)
        if found is None:
            raise refuse(
                f"{label}: {file_name(path)!r} is not among the files that were uploaded here. Please upload it (again)."
            )
        return {"path": str(found), "orig_name": found.name, "meta": {"_type": "gradio.FileData"}}
    if isinstance(block, gr.Dataset):
        count = len(block.samples or ())
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            raise refuse(f"{label}: expected the number of an example, 0 to {count - 1}, got {kind_of(value)}.")
    elif isinstance(block, gr.Slider | gr.Number):
        low, high = block.minimum, block.maximum
        low, high = -MOST if low is None else low, MOST if high is None else high
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # nor NaN
            raise refuse(f"{label}: expected a number from {low:g} to {high:g}, got {kind_of(value)}.")
    elif isinstance(block, gr.Radio | gr.Dropdown):
        choices = [choice for _, choice in block.choices]
        if not isinstance(value, str | int | float) or value not in choices:
            raise refuse(f"{label}: expected one of {', '.join(map(str, choices))}, got {kind_of(value)}.")
    elif not isinstance(value, str):
        raise refuse(f"{label}: expected a text, got {kind_of(value)}.")
    return value
