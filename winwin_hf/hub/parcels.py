"""What goes to the Hub: the files of a model, a data set or a Space, as they will lie there, and what stays here and why.

Notable:
- A list says what may go, not what may not: weights as safetensors, config, processor, card, recipe, code. Anything else in a
  checkpoint's folder stays and is named. Pickles, temporary files and optimiser states never go.
- Weights and shards are looked at first: a file that isn't as long as it says is an error.
- A model can be used with the package and without: the flat code files lie beside the weights (`trust_remote_code`), and
  `pipeline("optical-flow")` is among them.
- Nothing here asks the Hub.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from winwin_hf import bundled
from winwin_hf.hub.card_pictures import CURVE, WORST
from winwin_hf.task import ARCHITECTURES

SHARD = 10**9  # bytes; weights beyond it are split, so that an interrupted transfer loses little
CODE = Path(__file__).resolve().parents[1] / "model"
ENTRIES = (
    "configuration_winwin",
    "modeling_winwin",
    "image_processing_winwin",
    "pipeline_winwin",
)  # and what they import
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
# What must not go, by suffix, and why.
KEPT_BACK = {
    **dict.fromkeys(
        (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"),
        "may be a pickle, which runs code when it is read",
    ),
    **dict.fromkeys((".tmp", ".part", ".incomplete", ".lock", ".swp", ".bak", ".log"), "temporary"),
    **dict.fromkeys((".pyc", ".pyo"), "byte code"),
}


@dataclass
class Parcel:
    """What is to go. files: path on the Hub -> file here. left_out: file -> why. stale: which files of the Hub these replace under other
    names. foreign: which files on the Hub don't go together with these, and why. sdk: of a Space. digests: SHA-256 to be checked."""

    files: dict[str, Path]
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stale: re.Pattern[str] | None = None
    foreign: tuple[re.Pattern[str], str] | None = None
    sdk: str | None = None
    digests: dict[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------ models


def pack_model(
    source: str | Path,
    repo_id: str,
    temporary: Path,
    results: list[str | Path],
    limits: str | None = None,
    hub_datasets: dict[str, str] | None = None,
    picture: bool = True,
) -> Parcel:
    """
    A checkpoint as it lies on the Hub: what isn't copied as it is, is written to `temporary`. See `push`.

    Raises: FileNotFoundError, ValueError: no checkpoint there, one with pickled or incomplete weights, or of another model.
    """
    from winwin_hf.hub import card_facts, card_figures, cards

    folder = _checkpoint(source)
    weights = _weights(folder)
    if not (folder / "preprocessor_config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no preprocessor_config.json; expected the image processor's, as its save_pretrained writes it"
        )
    name = repo_id.partition("/")[2]
    names = {Path(source).name, folder.name, name}
    facts = card_facts.read_facts(folder, limits, results=[card_figures.read_results(path, names) for path in results])
    parcel = Parcel(dict(weights), stale=WEIGHTS)
    if len(weights) == 1 and sum(path.stat().st_size for path in weights.values()) > SHARD:
        parcel.files = _split_weights(next(iter(weights.values())), temporary)
    for path in code_files():
        parcel.files[path.name] = path
    _write(parcel, temporary, "config.json", _json(_config(folder, facts.architecture)))
    _write(parcel, temporary, "preprocessor_config.json", _json(_processor(folder)))
    if facts.recipe is not None:
        from winwin_hf.training.recipe import dump_recipe

        _write(parcel, temporary, "recipe.yaml", dump_recipe(facts.recipe))
    own = folder / "README.md"
    if facts.recipe is None and not (folder / card_facts.FACTS).is_file() and own.is_file():
        # Somebody wrote it who knew more than can be read here, as `winwin convert` does.
        text = cards.with_figures(own.read_text(encoding="utf-8"), name, facts, repo_id)
        parcel.warnings += _warnings_of_card(own, text)
    else:
        card_facts.write_facts(temporary / card_facts.FACTS, facts)
        parcel.files[card_facts.FACTS] = temporary / card_facts.FACTS
        shown = example_picture(folder, facts.architecture, temporary / "example.jpg") if picture else None
        if shown is not None:
            parcel.files["example.jpg"] = temporary / "example.jpg"
        text = cards.card(name, facts, repo_id, ("example.jpg", shown) if shown else None)
        parcel.warnings += _warnings_of(facts)
        pictures = [folder / file for file in (CURVE, WORST)]
        parcel.files |= {path.name: path for path in pictures if path.is_file()}  # what the card shows
    _write(parcel, temporary, "README.md", text)
    for file, entries in card_figures.eval_results(facts.results, repo_id, hub_datasets or {}).items():
        _write(parcel, temporary, f".eval_results/{file}", yaml.safe_dump(entries, sort_keys=False))
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).as_posix()
        if inside not in parcel.files and not WEIGHTS.fullmatch(inside):
            parcel.left_out[inside] = _why_not(path) or "not part of a published checkpoint"
    return parcel


def code_files() -> list[Path]:
    """The flat files of the model's code: the Auto classes' own and all that they import from beside them."""
    from transformers.dynamic_module_utils import get_relative_import_files

    own = [CODE / f"{name}.py" for name in ENTRIES]
    needed = [Path(file) for path in own for file in get_relative_import_files(path)]
    return sorted({path.resolve() for path in (*own, *needed)})


def _checkpoint(source: str | Path) -> Path:
    """The folder with config.json: `source` itself, the `model` of a training, or a bundled checkpoint."""
    folder = Path(bundled.resolve(str(source)))
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no config.json there, nor in {folder.name}/model; expected a checkpoint or a finished training"
        )
    raise FileNotFoundError(
        f"{source}: no such folder, nor a bundled checkpoint ({', '.join(bundled.folders()) or 'none'})"
    )


def _weights(folder: Path) -> dict[str, Path]:
    """The weights' files, each whole."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = {"model.safetensors.index.json": index, **{shard: folder / shard for shard in shards}}
    elif (folder / "model.safetensors").is_file():
        files = {"model.safetensors": folder / "model.safetensors"}
    else:
        pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles:
            raise ValueError(
                f"{folder}: weights only as a pickle ({pickles[0]}), which is never pushed; expected model.safetensors, as "
                "save_pretrained writes it"
            )
        raise FileNotFoundError(f"{folder}: no model.safetensors")
    for path in files.values():
        if path.suffix == ".safetensors":
            _check_whole(path)
    return files


def _check_whole(path: Path) -> None:
    """Raises FileNotFoundError or ValueError where a safetensors file isn't there or isn't as long as its header says."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, though the index names it")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(file.read(length if length < size else 0))
            last = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ValueError(f"{path}: no safetensors file, or only a part of one") from None
    if size != 8 + length + last:
        raise ValueError(f"{path}: {size} bytes, expected {8 + length + last}; it was not written to its end")


def _split_weights(path: Path, temporary: Path) -> dict[str, Path]:
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    folder = temporary / "weights"
    folder.mkdir()
    save_torch_state_dict(load_file(path), folder, max_shard_size=SHARD)
    return {file.name: file for file in sorted(folder.iterdir())}


def _config(folder: Path, architecture: str) -> dict[str, Any]:
    """config.json with what `trust_remote_code` reads."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": "configuration_winwin.WinWinConfig",
        "AutoImageProcessor": "image_processing_winwin.WinWinImageProcessor",
        **dict.fromkeys(ARCHITECTURES[architecture].auto_classes, f"modeling_winwin.{architecture}"),
    }
    config.pop("custom_pipelines", None)
    if architecture == "WinWinForOpticalFlow":
        implementation = {"impl": "pipeline_winwin.OpticalFlowPipeline", "pt": ["AutoModel"], "type": "image"}
        config["custom_pipelines"] = {"optical-flow": implementation}
    return config


def _processor(folder: Path) -> dict[str, Any]:
    """preprocessor_config.json without its class, which stands in config.json's auto_map.

    Where transformers finds an auto_map here, it makes of WinWinImageProcessor the name of a video processor, and asks whether that
    code may run, even with the package.
    """
    processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    for name in ("auto_map", "image_processor_type"):
        processor.pop(name, None)
    return processor


def example_picture(folder: Path, architecture: str, path: Path) -> str | None:
    """
    Writes a picture of what the model does on the package's example frames, and gives its caption with their credit.

    None where there is nothing to see (features) or the package came without frames.
    """
    from winwin_hf.data import formats
    from winwin_hf.inference import drawing, sheets
    from winwin_hf.inference.predictor import Predictor

    frames = bundled.examples_folder()
    wanted = {
        "WinWinForOpticalFlow": bundled.PAIRS[0],
        "WinWinForSemanticSegmentation": bundled.SEGMENTED[:1],
        "WinWinForDepthEstimation": bundled.MEASURED[:1],
    }.get(architecture, ())
    if not wanted or not all((frames / name).is_file() for name in wanted):
        return None
    images = [formats.read_image(frames / name) for name in wanted]
    if architecture == "WinWinForOpticalFlow":
        predictor = Predictor.load(str(folder), "optical-flow")
        flow = predictor(*images).values
        back = drawing.warp(images[1], flow)
        pictures = [("frame 1", images[0]), ("flow", sheets.flow_picture(flow)), ("frame 2", images[1])]
        pictures.append(("frame 2 warped to frame 1", back))
        what = "Optical flow"
    elif architecture == "WinWinForSemanticSegmentation":
        predictor = Predictor.load(str(folder), "semantic-segmentation")
        labels = predictor(images[0]).values
        pictures = [
            ("image", images[0]),
            ("classes", sheets.segmentation_picture(images[0], labels, predictor.labels or ())),
        ]
        what = "Classes"
    else:
        predictor = Predictor.load(str(folder), "depth-estimation")
        depth = predictor(images[0]).values
        pictures = [("image", images[0]), ("depth, near pale, far dark", sheets.depth_picture(depth))]
        what = "Depth"
    formats.save_image(path, sheets.panel(pictures))
    return f"{what} by this model. Picture: {_credit(frames, wanted[0])}"


def _credit(frames: Path, name: str) -> str:
    """Who made an example frame, and its licence, as the README.md beside the frames says."""
    for line in (frames / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if f"`{name}`" in cells[0] and len(cells) == 5:
            return f"{cells[2]}; {cells[3]}; changes: {cells[4]}; here scaled, beside the prediction."
    return name


def _warnings_of(facts: Any) -> list[str]:
    from winwin_hf.hub.card_facts import UNSTATED

    terms = facts.terms
    if terms is None:
        return ["no recipe.yaml: the card can't say what the weights were trained on, nor under which terms"]
    warnings = []
    if terms.restricted:
        warnings.append(f"not for commercial use: {' '.join(terms.text.split())}")
    elif UNSTATED.search(terms.text):
        warnings.append(f"terms not stated: {' '.join(terms.text.split())}")
    if facts.recipe.model.init and facts.init_licence is None:
        warnings.append(f"started from {facts.recipe.model.init}: the terms of those weights go on")
    return warnings


def _warnings_of_card(path: Path, text: str) -> list[str]:
    head = re.match(r"---\s*\n(.*?)\n---", text, re.S)
    try:
        licence = (yaml.safe_load(head[1]) or {}).get("license") if head else None
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(f"{path}: expected YAML between two lines of ---; {first_line(str(error))}") from None
    if not licence:
        return [f"{path} names no licence"]
    return [f"not for commercial use: {path} says {licence}"] if "-nc" in str(licence).lower() else []


# ------------------------------------------------------------------ data sets and Spaces


def pack_dataset(folder: Path) -> Parcel:
    """A folder of `winwin data shards`: what its dataset.json names, and its card. Raises ValueError for another, or an incomplete one."""
    from winwin_hf.data.shards import SIDECAR, SUFFIXES
    from winwin_hf.hub.card_facts import RESTRICTED, UNSTATED

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / SIDECAR).is_file():
        raise FileNotFoundError(f"{folder}: no {SIDECAR}; expected a folder that `winwin data shards` has finished")
    try:
        info = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        shards = {item["file"]: item for item in info["files"]}
        suffix, terms, name = SUFFIXES[info["format"]], info["terms"], info["name"]
        stem = next(iter(shards)).rpartition("-of-")[0].rpartition("-")[0]
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{folder / SIDECAR}: expected what `winwin data shards` wrote; {error!r}") from None
    for file, item in shards.items():
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though {SIDECAR} names it")
        if path.stat().st_size != item["bytes"]:
            raise ValueError(
                f"{path}: {path.stat().st_size} bytes, expected {item['bytes']}; it is not as it was written"
            )
    parcel = Parcel(
        {file: folder / file for file in (*shards, SIDECAR, "README.md") if (folder / file).is_file()},
        stale=re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}\.(parquet|tar)"),
        foreign=(
            re.compile(r"(?!" + re.escape(stem) + r"-\d{5}-of-).*" + re.escape(suffix)),
            f"holds other shards than {stem}'s: one repository is for one folder of shards",
        ),
        digests={file: item["sha256"] for file, item in shards.items()},
    )
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).as_posix()
        if inside not in parcel.files:
            parcel.left_out[inside] = _why_not(path) or f"{SIDECAR} doesn't name it"
    if not terms or UNSTATED.search(terms):
        parcel.warnings.append(f"the terms of {name} are not stated; are you free to publish it?")
    elif RESTRICTED.search(terms):
        parcel.warnings.append(f"{name} is not for commercial use ({terms}); may it be published by others?")
    return parcel


def pack_space(folder: Path) -> Parcel:
    """A Space's folder: all but hidden files and those of `KEPT_BACK`. Raises ValueError without a README.md that names its sdk."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    head = re.match(r"---\s*\n(.*?)\n---", text, re.S)
    try:
        settings = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError as error:
        raise ValueError(f"{readme}: expected YAML between two lines of ---; {first_line(str(error))}") from None
    if not isinstance(settings, dict) or not settings.get("sdk"):
        raise ValueError(f"{folder}: expected a README.md that begins with a Space's settings (sdk, app_file, ...)")
    app = settings.get("app_file", "app.py")
    if settings["sdk"] in ("gradio", "streamlit") and not (folder / app).is_file():
        raise FileNotFoundError(f"{folder / app}: missing, though README.md says that it is the app")
    parcel = Parcel({}, sdk=settings["sdk"])
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).as_posix()
        why = _why_not(path, folder)
        if why:
            parcel.left_out[inside] = why
        else:
            parcel.files[inside] = path
    return parcel


def _why_not(path: Path, folder: Path | None = None) -> str | None:
    """Why a file never goes to the Hub; None if it may."""
    parts = path.relative_to(folder or path.parent).parts
    if re.search(r"optimizer|scheduler|scaler|random_states|rng_state", path.name) and path.suffix != ".py":
        return "a training's state"
    if "__pycache__" in path.parts:
        return "byte code"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if path.name.endswith("~"):
        return "temporary"
    if path.is_symlink() and not path.exists():
        return "a link to nowhere"
    return KEPT_BACK.get(path.suffix.lower())


# ------------------------------------------------------------------ what the functions above share


def first_line(text: str) -> str:
    """The first line that says something, not too long."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines and len(lines[0]) <= 300 else (lines[0][:297] + "..." if lines else "")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _write(parcel: Parcel, temporary: Path, name: str, text: str) -> None:
    path = temporary / "written" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    parcel.files[name] = path
