"""Encoders that others pre-trained, as folders for `from_pretrained`: config, weights, image processor and card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import ViTImageProcessorPil

from winwin_hf import __version__, bundled
from winwin_hf.convert.folder import check_output, new_folder
from winwin_hf.downloads import checked_downloads
from winwin_hf.inference.loading import load_config, load_network, load_processor
from winwin_hf.model.encoders_winwin import place_of, read_encoder, to_transformers
from winwin_hf.model.hub_files_winwin import optional_file
from winwin_hf.model.modeling_winwin import WinWinModel, WinWinPreTrainedModel
from winwin_hf.model.pretrained_winwin import HUB_OPTIONS, PretrainedEncoder
from winwin_hf.own_files import sha256_of

CARD = Path(__file__).with_name("encoder_card.md.jinja")


@dataclass(frozen=True)
class EncoderConversion:
    """
    What `convert_encoder` wrote.

    Attributes:
        architecture: the class that `AutoModel.from_pretrained` returns. parameters: number of its parameters.
        used, left_out: numbers of the source's tensors that are in the model, and that aren't.
        licence: of the source's card, as `bundled.licence_label` writes it.
    """

    folder: Path
    architecture: str
    parameters: int
    used: int
    left_out: int
    licence: str


def convert_encoder(
    source: str,
    output: str | Path,
    model_class: type[WinWinPreTrainedModel] = WinWinModel,
    overwrite: bool = False,
    **options: Any,
) -> EncoderConversion:
    """
    Writes a folder with the encoder of `source` under our names, in float32.

    Args:
        source: as of `read_encoder`.
        output: the new folder, written under a temporary name and renamed.
        model_class: `WinWinModel`, the encoder alone; or a task's, whose head is initialised and untrained.
        overwrite: replace `output` if it exists and has a config.json.
        options: fields of `WinWinConfig` and options of the Hub, as of `from_encoder`.
    Raises: FileExistsError: `output` exists. OSError, ValueError: as `read_encoder`.
    """
    output = Path(output)
    check_output(output, overwrite, source)
    with checked_downloads(place_of(source)):
        encoder = read_encoder(source, **{name: options.pop(name) for name in HUB_OPTIONS if name in options})
    if (channels := encoder.config.get("num_channels", 3)) != 3:  # the folder's image processor makes three
        raise ValueError(f"{source}: takes {channels} channels; expected 3, as images have (`from_encoder` takes any)")
    model = model_class.on_encoder(encoder, **options)
    encoder = encoder if hasattr(model, "decoder") else encoder.without_decoder()
    metadata = card_of(encoder.source)
    metadata |= licence_of(metadata, encoder.licence)
    licence, name = metadata["license"], metadata.get("license_name")
    done = EncoderConversion(
        folder=output,
        architecture=model_class.__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        used=len(encoder.names) + len(encoder.decoder_names),
        left_out=len(encoder.left_out),
        licence=bundled.licence_label(licence, name),
    )
    with new_folder(output, overwrite) as folder:
        model.save_pretrained(folder)
        encoder.image_processor().save_pretrained(folder)
        make_card(encoder, done, model, metadata).save(folder / "README.md")
    return done


def encoder_to_transformers(source: str, output: str | Path, overwrite: bool = False) -> str:
    """
    Writes the encoder of one of our checkpoints as a folder of transformers' own family, for other tools; returns the family.

    Args:
        source: a bundled name, a folder or a Hub repository. output, overwrite: as of `convert_encoder`.
    Raises: FileExistsError: `output` exists. ValueError: an encoder that no family has.
    """
    output = Path(output)
    check_output(output, overwrite, bundled.resolve(source))
    kind = load_config(source).model_type
    if kind != "winwin":
        raise ValueError(f"{source}: of type {kind!r}; expected a checkpoint of this package")
    network = load_network(source)
    model, ours = to_transformers(network), load_processor(source, network)
    side = getattr(model.config, "image_size", 224)
    processor = ViTImageProcessorPil(
        image_mean=ours.image_mean, image_std=ours.image_std, size={"height": side, "width": side}
    )
    with new_folder(output, overwrite) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return model.config.model_type


def card_of(source: str) -> dict[str, Any]:
    """The metadata of a source's card; {} where it has none."""
    if Path(source).exists():
        return bundled.card_metadata(Path(source) / "README.md")
    with checked_downloads(source):
        card = optional_file(source, "README.md")
    return ModelCard.load(card).data.to_dict() if card else {}


def licence_of(metadata: dict[str, Any], known: str | None) -> dict[str, str | None]:
    """A card's licence as three texts; of a list of licences, all of them in the name. `known`: where the card says nothing."""
    found = {key: metadata.get(key) for key in ("license", "license_name", "license_link")}
    several = found["license"]
    if isinstance(several, list) and several and all(isinstance(one, str) for one in several):
        found = {"license": "other", "license_name": " and ".join(several), "license_link": found["license_link"]}
        found = found if len(several) > 1 else {**found, "license": several[0], "license_name": None}
    texts = {key: value if isinstance(value, str) else None for key, value in found.items()}
    return texts if texts["license"] else {**texts, "license": known}


def summary(left_out: dict[str, str]) -> dict[str, str]:
    """Tensors that aren't used -> why; those of one module and reason as one line, such as "dec_blocks2.* (312 tensors)"."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in left_out.items():
        groups.setdefault((name.partition(".")[0], reason), []).append(name)
    return {
        f"`{names[0]}`" if len(names) == 1 else f"`{module}.*` ({len(names)} tensors)": reason
        for (module, reason), names in groups.items()
    }


def make_card(
    encoder: PretrainedEncoder, done: EncoderConversion, model: WinWinPreTrainedModel, metadata: dict[str, Any]
) -> ModelCard:
    """The model card: how to load it, where the weights come from, their licence, and which tensors aren't used."""
    path = Path(encoder.source)
    repository = None if path.exists() else encoder.source
    data = ModelCardData(
        library_name="transformers",
        license=metadata.get("license"),
        license_name=metadata.get("license_name"),
        license_link=metadata.get("license_link"),
        base_model=repository,
        pipeline_tag="image-feature-extraction" if isinstance(model, WinWinModel) else None,
        tags=["winwin", encoder.family],
    )
    variables: dict[str, Any] = {
        "name": done.folder.name,
        "source": repository or path.name,
        "sha256": sha256_of(path) if path.is_file() else None,
        "encoder": encoder,
        "done": done,
        "config": model.config,
        "alone": isinstance(model, WinWinModel),
        "left_out": summary(encoder.left_out),
        "version": __version__,
    }
    return ModelCard.from_template(data, template_path=str(CARD), **variables)
