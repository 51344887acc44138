"""The files of a repository on the Hub: of a model, a data set or a Space, and which files stay here and why.

Notable:
- a list says what may be uploaded: weights as safetensors, config, processor, card, recipe, code. Any other file of a checkpoint's
  folder is left out and named. Pickles, temporary files and states of a training are never uploaded.
- weights and shards are checked first: a file of another length than it says is an error.
- a link that leads out of the folder is an error: a folder of somebody else's could publish any file of this machine.
- a model can be used with the package and without: the files of `winwin_hf/model` lie beside the weights (`trust_remote_code`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from winwin_hf import bundled
from winwin_hf.data.formats.files import read_json, read_text
from winwin_hf.data.licences import RESTRICTED, UNKNOWN
from winwin_hf.data.shards import SIDECAR, SUFFIXES, check_shards, shards_info
from winwin_hf.evaluation.results import read_results
from winwin_hf.hub import cards
from winwin_hf.hub.facts import FACTS, Facts, read_facts, write_facts
from winwin_hf.hub.outgoing import check_inside, identity
from winwin_hf.inference.examples import example_picture
from winwin_hf.inference.loading import load_network, load_processor
from winwin_hf.model.pipeline_winwin import CUSTOM_PIPELINES
from winwin_hf.model.weights_winwin import files_of_index, reason_of, refuse_two_saves, refuse_zero_end
from winwin_hf.redaction import redact
from winwin_hf.task import ARCHITECTURES, DoesNotFit
from winwin_hf.training.recipe import dump_recipe

MAX_WEIGHTS = 10**9  # bytes of a file; larger weights are split, so that an interrupted upload loses little
CODE = Path(__file__).resolve().parents[1] / "model"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
# Files beside the weights that end up in the repository, as they are or in part.
READ = ("config.json", "preprocessor_config.json", "recipe.yaml", "README.md", FACTS, cards.CURVE, cards.WORST)
NEVER = {  # suffix -> why such a file is never uploaded
    **dict.fromkeys(PICKLES, "may be a pickle, which runs code when it is read"),
    **dict.fromkeys((".tmp", ".part", ".incomplete", ".lock", ".swp", ".bak", ".log"), "temporary"),
    **dict.fromkeys((".pyc", ".pyo"), "byte code"),
}


@dataclass
class Contents:
    """
    What a repository will hold.

    Attributes:
        files: path on the Hub -> file here. left_out: file here -> why it isn't uploaded.
        replaces: files on the Hub that have to be deleted, because these replace them under other names.
        conflicts: files on the Hub that must not be mixed with these, and what to say of them.
        sdk: of a Space. digests: path -> SHA-256 that the file must have.
        seen: file here -> what it was when it was looked at, see `identity`.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    replaces: re.Pattern[str] | None = None
    conflicts: tuple[re.Pattern[str], str] | None = None
    sdk: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    seen: dict[Path, tuple[int, ...]] = field(default_factory=dict)


# ------------------------------------------------------------------ models


def model_contents(
    source: str | Path,
    repo_id: str,
    temporary: Path,
    results: list[str | Path],
    limits: str | None = None,
    hub_datasets: dict[str, str] | None = None,
    picture: bool = True,
) -> Contents:
    """
    The files of a checkpoint's repository; those that differ from the folder's are written to `temporary`. See `push`.

    Raises: FileNotFoundError, ValueError: no checkpoint there, one with pickled or incomplete weights, or of another model.
    """
    folder = _checkpoint(source)
    weights = _weights(folder)
    seen = {path: identity(path) for path in weights.values()}
    check_inside([*weights.values(), *(folder / name for name in READ)], folder)
    network = load_network(folder)  # raises where tensors are missing, of another shape or not finite
    if not (folder / "preprocessor_config.json").is_file():
        raise FileNotFoundError(f"{folder}: no preprocessor_config.json, the image processor's")
    load_processor(folder, network)
    if len(weights) == 1 and weights["model.safetensors"].stat().st_size > MAX_WEIGHTS:
        (temporary / "weights").mkdir()
        tensors = load_file(weights["model.safetensors"])
        save_torch_state_dict(tensors, temporary / "weights", max_shard_size=MAX_WEIGHTS)
        weights = {file.name: file for file in sorted((temporary / "weights").iterdir())}
    name = repo_id.partition("/")[2]
    names = {Path(source).name, folder.name, name}
    facts = read_facts(folder)
    facts.limits = limits or facts.limits
    facts.results = [read_results(path, names) for path in results] or facts.results
    contents = Contents({**weights, **{path.name: path for path in code_files()}}, replaces=WEIGHTS, seen=seen)
    written = _configs(folder, facts.architecture)
    if facts.recipe is not None:
        written["recipe.yaml"] = redact(dump_recipe(facts.recipe))
    with _known_values([*([folder / FACTS] if (folder / FACTS).is_file() else []), *map(Path, results)]):
        _add_card(contents, written, folder, facts, repo_id, temporary, hub_datasets or {}, picture)
    for file, text in written.items():
        contents.files[file] = temporary / "written" / file
        contents.files[file].parent.mkdir(parents=True, exist_ok=True)
        contents.files[file].write_text(text, encoding="utf-8")
    for file, path in _files(folder):
        if file not in contents.files and not WEIGHTS.fullmatch(file):
            contents.left_out[file] = _never(path) or "not part of a published checkpoint"
    return contents


@contextmanager
def _known_values(files: list[Path]) -> Iterator[None]:
    """Names the files with what is known of a checkpoint where a card can't be made of it: their values may be of any kind."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, OverflowError) as error:
        if not files:
            raise
        names = " or ".join(map(str, files))
        raise ValueError(
            f"{names}: values that no card can be made of; expected a file of this package ({reason_of(error)})"
        ) from error


def _add_card(
    contents: Contents,
    written: dict[str, str],
    folder: Path,
    facts: Facts,
    repo_id: str,
    temporary: Path,
    hub_datasets: dict[str, str],
    picture: bool,
) -> None:
    """Adds the card, what it shows, and its scores in the Hub's form."""
    name, own = repo_id.partition("/")[2], folder / "README.md"
    if facts.recipe is None and not (folder / FACTS).is_file() and own.is_file():  # as `winwin convert` writes it
        written["README.md"] = cards.with_scores(read_text(own), name, facts, repo_id)
        licence = bundled.licence_label(bundled.card_metadata(own).get("license"))
        if licence == "unknown" or "not commercial" in licence:
            contents.warnings.append(f"licence of the weights, by {own}: {licence}")
    else:
        if own.is_file() and not (folder / FACTS).is_file():  # beside which a card is one of ours
            contents.warnings.append(
                f"{own} stays here: the repository gets a card of its recipe, with the licence that follows from its data"
            )
        write_facts(temporary / FACTS, facts)
        contents.files[FACTS] = temporary / FACTS
        caption = example_picture(folder, facts.task, temporary / cards.EXAMPLE) if picture else None
        if caption:
            contents.files[cards.EXAMPLE] = temporary / cards.EXAMPLE
        written["README.md"] = cards.card(name, facts, repo_id, (cards.EXAMPLE, caption) if caption else None)
        contents.warnings += _warnings(facts)
        shown = [folder / file for file in (cards.CURVE, cards.WORST)]
        contents.files |= {path.name: path for path in shown if path.is_file()}
    for file, entries in cards.eval_results(facts, repo_id, hub_datasets).items():
        written[f".eval_results/{file}"] = yaml.safe_dump(entries, sort_keys=False)


def code_files() -> list[Path]:
    """The files of `winwin_hf/model`, which import only one another."""
    return sorted(path for path in CODE.glob("*.py") if path.name != "__init__.py")


def _checkpoint(source: str | Path) -> Path:
    """The folder with config.json: `source` itself, the `model` of a training, or a bundled checkpoint."""
    folder = Path(bundled.resolve(str(source)))
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir():
        wanted = f"no config.json there, nor in {folder.name}/model; expected a checkpoint or a finished training"
    else:
        wanted = f"no such folder, nor a bundled checkpoint ({', '.join(bundled.folders()) or 'none'})"
    raise FileNotFoundError(f"{source}: {wanted}")


def _weights(folder: Path) -> dict[str, Path]:
    """The files of the weights, after a check of their lengths."""
    refuse_two_saves(folder)
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = {"model.safetensors": folder / "model.safetensors"}
    elif index.is_file():
        files = {index.name: index, **{shard: folder / shard for shard in files_of_index(index)}}
    else:
        pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        if not pickles:
            raise FileNotFoundError(f"{folder}: no model.safetensors")
        raise ValueError(f"{folder}: only a pickle ({pickles[0]}), which is never pushed; expected model.safetensors")
    for path in files.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though the index names it")
        if path.suffix == ".safetensors":
            refuse_zero_end(path)  # and what `tensors_of` raises where a part is missing
    return files


def _configs(folder: Path, architecture: str) -> dict[str, str]:
    """config.json with what `trust_remote_code` reads, and preprocessor_config.json without its class, which stands there.

    An auto_map in the latter would make transformers ask whether that code may run, even with the package.
    """
    names = ("config.json", "preprocessor_config.json")
    config, processor = (read_json(folder / name) for name in names)
    config["auto_map"] = {
        "AutoConfig": "configuration_winwin.WinWinConfig",
        "AutoImageProcessor": "image_processing_winwin.WinWinImageProcessor",
        **dict.fromkeys(ARCHITECTURES[architecture].auto_classes, f"modeling_winwin.{architecture}"),
    }
    config.pop("custom_pipelines", None)
    if architecture == "WinWinForOpticalFlow":
        config["custom_pipelines"] = CUSTOM_PIPELINES
    for key in ("auto_map", "image_processor_type"):
        processor.pop(key, None)
    texts = (json.dumps(values, indent=2, sort_keys=True) + "\n" for values in (config, processor))
    return dict(zip(names, texts, strict=True))


def _warnings(facts: Facts) -> list[str]:
    terms, recipe = facts.terms, facts.recipe
    if terms is None or recipe is None:
        return ["no recipe.yaml: the card can't name the training data, nor the licence of the weights"]
    warnings = []
    if terms.restricted or terms.unknown:
        kind = "not for commercial use" if terms.restricted else "licence unknown"
        warnings.append(f"{kind}: {' '.join(terms.text.split())}")
    if recipe.model.init and facts.init_licence is None:
        warnings.append(f"started from {recipe.model.init}: the licence of those weights holds for these too")
    return warnings


# ------------------------------------------------------------------ data sets and Spaces


def dataset_contents(folder: Path) -> Contents:
    """The files of a folder of `winwin data shards`. Raises FileNotFoundError or ValueError for another or an incomplete one."""
    info = shards_info(folder)
    check_shards(folder, info)
    digests = {item["file"]: item["sha256"] for item in info["files"]}
    stem = next(iter(digests)).rpartition("-of-")[0].rpartition("-")[0]
    contents = Contents(
        {file: folder / file for file in (*digests, SIDECAR, "README.md") if (folder / file).is_file()},
        replaces=re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}\.(parquet|tar)"),
        conflicts=(
            re.compile(rf"(?!{re.escape(stem)}-\d{{5}}-of-).*{re.escape(SUFFIXES[info['format']])}"),
            f"holds other shards than {stem}'s: one repository is for one folder of shards",
        ),
        digests=digests,
    )
    check_inside(contents.files.values(), folder)
    for file, path in _files(folder):
        if file not in contents.files:
            contents.left_out[file] = _never(path) or f"{SIDECAR} doesn't name it"
    name, terms = info["name"], info["terms"]
    if not terms or UNKNOWN.search(terms):
        contents.warnings.append(f"the licence of {name} is unknown; are you free to publish it?")
    elif RESTRICTED.search(terms):
        contents.warnings.append(f"{name} is not for commercial use ({terms}); may it be published by others?")
    return contents


def space_contents(folder: Path) -> Contents:
    """All files of a Space but hidden ones and those of `NEVER`. Raises DoesNotFit without a README.md that names its sdk."""
    settings = bundled.card_metadata(folder / "README.md")
    if not settings.get("sdk"):
        raise DoesNotFit(f"{folder}: expected a README.md that begins with a Space's settings (sdk, app_file, ...)")
    app = folder / settings.get("app_file", "app.py")
    if settings["sdk"] in ("gradio", "streamlit") and not app.is_file():
        raise FileNotFoundError(f"{app}: missing, though README.md says that it is the app")
    reasons = {file: _never(path, folder) for file, path in _files(folder)}
    files = {file: folder / file for file, reason in reasons.items() if reason is None}
    check_inside(files.values(), folder)
    return Contents(files, {file: reason for file, reason in reasons.items() if reason}, sdk=settings["sdk"])


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Path below `folder`, and the file or the link to a folder, which isn't followed, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() or (path.is_symlink() and path.is_dir()):
            yield path.relative_to(folder).as_posix(), path


def _never(path: Path, folder: Path | None = None) -> str | None:
    """Why a file is never uploaded; None if it may be. Within `folder`, hidden folders count too."""
    if re.search(r"optimizer|scheduler|scaler|random_states|rng_state", path.name) and path.suffix != ".py":
        return "state of a training"
    if path.is_dir():
        return "a link to a folder; expected the folder itself"
    if "__pycache__" in path.parts:
        return "byte code"
    if any(part.startswith(".") for part in path.relative_to(folder or path.parent).parts):
        return "hidden"
    return "temporary" if path.name.endswith("~") else NEVER.get(path.suffix.lower())
