"""The image processor: any image in, padded tensors out. The way back: test_post_processing.py."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import logging

from winwin_hf.model.image_processing_winwin import WinWinImageProcessor

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def processor() -> WinWinImageProcessor:
    return WinWinImageProcessor()


def test_values_against_a_hand_computation(processor):
    image = picture()
    values = processor(images=image, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 48, 64) and values.dtype == torch.float32
    expected = np.pad(image, ((0, 11), (0, 11), (0, 0)), mode="edge").astype(np.float64)
    expected = ((expected / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(values[0].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (16, 32), (17, 16), (37, 53), (3, 200)])
def test_padding_is_the_least_that_makes_whole_patches(processor, size):
    values = processor(images=picture(*size), return_tensors="pt").pixel_values
    assert values.shape[-2:] == (-(-size[0] // 16) * 16, -(-size[1] // 16) * 16)


def test_patch_size_and_do_pad_are_options(processor):
    assert processor(images=picture(), patch_size=8, return_tensors="pt").pixel_values.shape[-2:] == (40, 56)
    assert processor(images=picture(), do_pad=False, return_tensors="pt").pixel_values.shape[-2:] == (37, 53)
    with pytest.raises(ValueError, match="patch_size"):
        processor(images=picture(), patch_size=0)


def inputs_of_every_kind(tmp_path) -> dict[str, object]:
    image = picture()
    Image.fromarray(image).save(tmp_path / "image.png")
    return {
        "pil": Image.fromarray(image),
        "pil rgba, opaque": Image.fromarray(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])),
        "path": str(tmp_path / "image.png"),
        "hwc": image,
        "chw": image.transpose(2, 0, 1),
        "float hwc": image.astype(np.float32) / 255,
        "float64 chw": image.transpose(2, 0, 1) / 255,
        "int64": image.astype(np.int64),
        "uint16": image.astype(np.uint16) * 257,
        "torch chw": torch.from_numpy(image).permute(2, 0, 1),
        "torch float": torch.from_numpy(image).permute(2, 0, 1).float() / 255,
        "torch hwc": torch.from_numpy(image),
        "4-d": image[None],
        "list": [image],
    }


def test_all_kinds_of_input_give_the_same_tensor(processor, tmp_path):
    expected = processor(images=picture(), return_tensors="pt").pixel_values
    for name, image in inputs_of_every_kind(tmp_path).items():
        values = processor(images=image, return_tensors="pt").pixel_values
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_grey_palette_alpha_and_16_bit(processor, tmp_path):
    grey = picture()[..., 0]
    expected = processor(images=np.repeat(grey[..., None], 3, axis=2), return_tensors="pt").pixel_values
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    sixteen.save(tmp_path / "grey16.png")
    palette = Image.fromarray(grey).convert("P")
    for image in (Image.fromarray(grey), grey, palette, sixteen, str(tmp_path / "grey16.png")):
        values = processor(images=image, return_tensors="pt").pixel_values
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)
    # Alpha is laid over white: nothing of the hidden colour shows where it is 0.
    rgba = np.dstack([picture(), np.zeros((37, 53), np.uint8)])
    white = processor(images=np.full((37, 53, 3), 255, np.uint8), return_tensors="pt").pixel_values
    for image in (rgba, Image.fromarray(rgba), rgba / 255, torch.from_numpy(rgba).permute(2, 0, 1)):
        torch.testing.assert_close(processor(images=image, return_tensors="pt").pixel_values, white, atol=1e-5, rtol=0)
    values = processor(images=rgba / 255, do_rescale=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(values, white, atol=1e-5, rtol=0)


def test_a_path_is_turned_as_its_exif_says(processor, tmp_path):
    image = Image.fromarray(picture(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert processor(images=str(tmp_path / "turned.png"), do_pad=False)["pixel_values"][0].shape == (3, 30, 20)


def test_ambiguous_layouts(processor):
    thin = np.zeros((3, 20, 3), np.uint8)  # NumPy: three rows; torch: three columns
    assert processor(images=thin, do_pad=False)["pixel_values"][0].shape == (3, 3, 20)
    assert processor(images=torch.from_numpy(thin), do_pad=False)["pixel_values"][0].shape == (3, 20, 3)
    values = processor(images=thin, do_pad=False, input_data_format="channels_first")["pixel_values"][0]
    assert values.shape == (3, 20, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((5, 6, 7), np.uint8), "channels"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (np.full((5, 6, 3), 2.0), "0..1"),
        (np.full((5, 6, 3), np.nan), "0..1"),
        (np.full((5, 6, 3), -1), "0..255"),
        (np.zeros(5, np.uint8), "shape"),
        ({"image": 1}, "dict"),
        ([], "empty"),
        ([[np.zeros((5, 6, 3), np.uint8)]], "list of lists"),
    ],
)
def test_images_that_are_none(processor, bad, message):
    with pytest.raises(ValueError, match=message):
        processor(images=bad)


def test_unreadable_path_is_named(processor, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    with pytest.raises(ValueError, match=r"broken\.png"):
        processor(images=str(path))


def test_unknown_and_unsupported_options(processor):
    with pytest.raises(TypeError, match="do_resise"):
        processor(images=picture(), do_resise=True)
    with pytest.raises(ValueError, match="do_center_crop"):
        processor(images=picture(), do_center_crop=True, crop_size=8)
    with pytest.raises(ValueError, match="size"):
        processor(images=picture(), do_resize=True)


def test_pairs(processor):
    first, second = picture(seed=1), picture(seed=2)
    both = processor(images=first, second_images=second, return_tensors="pt")
    assert set(both) == {"pixel_values", "second_pixel_values"}
    assert torch.equal(both.pixel_values, processor(images=first, return_tensors="pt").pixel_values)
    assert torch.equal(both.second_pixel_values, processor(images=second, return_tensors="pt").pixel_values)
    batch = processor(images=[first, second], second_images=[second, first], return_tensors="pt")
    assert torch.equal(batch.pixel_values.flip(0), batch.second_pixel_values)


def test_pairs_that_do_not_fit(processor):
    with pytest.raises(ValueError, match=r"37 x 53.*40 x 53.*same size"):
        processor(images=picture(), second_images=picture(40, 53))
    with pytest.raises(ValueError, match=r"2 images but 1 second_images"):
        processor(images=[picture(), picture()], second_images=picture())


def test_images_of_several_sizes(processor):
    images = [picture(37, 53), picture(80, 53)]
    values = processor(images=images)["pixel_values"]
    assert [item.shape for item in values] == [(3, 48, 64), (3, 80, 64)]
    with pytest.raises(ValueError, match=r"48 x 64, 80 x 64"):
        processor(images=images, return_tensors="pt")
    # The same padded size stacks.
    assert processor(images=[picture(37, 53), picture(40, 60)], return_tensors="np")["pixel_values"].shape == (
        2,
        3,
        48,
        64,
    )


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ({"height": 40, "width": 100}, (40, 100)),
        ({"shortest_edge": 74}, (74, 106)),
        ({"longest_edge": 106}, (74, 106)),
        ({"shortest_edge": 74, "longest_edge": 53}, (37, 53)),
        (74, (74, 106)),
    ],
)
def test_resizing(processor, size, resized):
    values = processor(images=picture(), do_resize=True, size=size, do_pad=False, return_tensors="pt").pixel_values
    assert values.shape[-2:] == resized
    expected = np.asarray(Image.fromarray(picture()).resize(resized[::-1], Image.Resampling.BILINEAR))
    expected = ((expected / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(values[0].numpy(), expected, atol=1e-5)
    floats = processor(
        images=picture() / 255, do_resize=True, size=size, do_pad=False, return_tensors="pt"
    ).pixel_values
    np.testing.assert_allclose(floats[0].numpy(), expected, atol=0.02)  # 8 bits round to half a step


@pytest.mark.parametrize(
    ("pixels", "size"),
    [(None, (37, 53)), (0, (37, 53)), (1900, (37, 53)), (4 * 37 * 53, (74, 106)), (10**6, (74, 106))],
)
def test_small_images_are_enlarged(pixels, size):
    """To as many pixels as asked, at most twice; larger ones are left alone. Flow comes back in the frames' own pixels."""
    processor = WinWinImageProcessor(min_pixels=pixels, do_pad=False)
    values = processor(images=picture(), return_tensors="pt").pixel_values
    assert values.shape[-2:] == size
    flow = torch.ones(1, 2, *size)
    flow[:, 1] = 2
    result = processor.post_process_optical_flow({"flow": flow}, target_sizes=[(37, 53)])[0]["flow"]
    assert result.shape == (2, 37, 53)
    expected = torch.tensor([53 / size[1], 2 * 37 / size[0]])
    assert torch.allclose(result, expected[:, None, None].expand_as(result), atol=1e-6)
    middle = WinWinImageProcessor(min_pixels=3000, do_pad=False)(images=picture(), return_tensors="pt").pixel_values
    assert abs(middle.shape[-1] * middle.shape[-2] - 3000) < 100


def test_size_of_the_wrong_kind(processor):
    with pytest.raises(ValueError, match="shortest_edge"):
        processor(images=picture(), do_resize=True, size={"max_height": 10, "max_width": 10})


def grey_of_4_bits(path: Path, values: np.ndarray) -> None:
    """A PNG by hand: Pillow writes none."""
    even = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    rows = np.pad(even[:, ::2] << 4 | even[:, 1::2], ((0, 0), (1, 0)))  # a filter's number begins each row
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 4, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.astype(np.uint8).tobytes())), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def maps_of_every_kind(labels: np.ndarray, folder: Path) -> list[object]:
    image, palette = Image.fromarray(labels), Image.fromarray(labels, "P")
    palette.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    palette.save(folder / "palette.png")
    image.save(folder / "grey.png")
    palette.save(folder / "four_bits.png", bits=4)
    Image.fromarray(labels.astype(np.uint16)).save(folder / "16.png")
    cut = [Image.fromarray(array) for array in (labels.astype(np.int32), labels.astype(np.uint16))]
    paths = [folder / "palette.png", str(folder / "grey.png"), folder / "four_bits.png", folder / "16.png"]
    tensor = torch.from_numpy(labels)
    arrays = [
        labels,
        labels[..., None],
        labels[None],
        labels[None, ..., None],
        labels[None, None],
        labels.astype(">i4"),
    ]
    tensors = [tensor, tensor[None], tensor[..., None], tensor.long()]
    grey_of_4_bits(folder / "grey4.png", labels)
    paths.append(folder / "grey4.png")
    return [image, palette, *cut, *paths, *arrays, *tensors, [labels], [labels[..., None]], [folder / "grey.png"]]


def test_segmentation_maps(processor, tmp_path):
    labels = np.random.default_rng(0).integers(0, 12, (37, 53)).astype(np.uint8)
    for given in maps_of_every_kind(labels, tmp_path):
        result = processor(picture(), given, return_tensors="pt").labels
        assert result.shape == (1, 48, 64) and result.dtype == torch.int64
        assert np.array_equal(result[0, :37, :53].numpy(), labels)
        assert (result[0, 37:] == 255).all() and (result[0, :, 53:] == 255).all()
    doubled = processor(
        images=picture(), segmentation_maps=labels, do_resize=True, size=74, do_pad=False, return_tensors="pt"
    ).labels
    assert np.array_equal(doubled[0].numpy(), labels.repeat(2, 0).repeat(2, 1))


def test_segmentation_maps_that_do_not_fit(processor):
    with pytest.raises(ValueError, match=r"10 x 53.*37 x 53"):
        processor(images=picture(), segmentation_maps=np.zeros((10, 53), np.uint8))
    with pytest.raises(ValueError, match="whole numbers"):
        processor(images=picture(), segmentation_maps=np.zeros((37, 53), np.float32))
    with pytest.raises(ValueError, match="-1: expected 0 or more, or 255"):
        processor(images=picture(), segmentation_maps=np.full((37, 53), -1))
    with pytest.raises(ValueError, match="1 images but 5 segmentation_maps"):
        processor(images=picture(), segmentation_maps=np.zeros((5, 37, 53), np.uint8))
    with pytest.raises(FileNotFoundError, match="no such file"):
        processor(images=picture(), segmentation_maps="masks/none.png")
    with pytest.raises(ValueError, match=r"map 0 must be a PIL image.*got bytes"):
        processor(images=picture(), segmentation_maps=b"png")
    with pytest.raises(ValueError, match=r"image must be a PIL image.*got BytesIO"):  # it has a method `detach` too
        processor(images=io.BytesIO(b"png"))


@pytest.mark.parametrize(
    ("maps", "options", "warned"),
    [
        ([[0, 255], [255, 255]], {}, True),
        ([[0, 0], [255, 0]], {}, True),
        ([[0, 255], [1, 255]], {}, False),  # somewhere is a second class
        ([[1, 255], [1, 1]], {}, False),  # no mask is saved so
        ([[0, 0], [0, 0]], {}, False),
        ([[255, 255], [255, 255]], {}, False),
        ([[0, 255], [255, 255]], {"ignore_index": -100}, False),
        ([[0, 255], [255, 255]], {"do_reduce_labels": True}, False),
    ],
)
def test_binary_masks_of_0_and_255_are_warned_of(processor, maps, options, warned, caplog):
    logging.warning_once.cache_clear()
    processor([picture(1, 2)] * 2, segmentation_maps=[np.uint8([row]) for row in maps], **options)
    assert ("hold only 0 and 255" in caplog.text) == warned
    if warned:
        caplog.clear()
        processor(picture(1, 2), segmentation_maps=np.uint8([[0, 255]]))
        assert not caplog.text


@pytest.mark.parametrize("size", [(37, 53), (40, 50)])
def test_masks_in_colours_are_refused_with_the_way_out(processor, size, tmp_path):
    mask = picture(*size)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    kinds = (
        mask,
        [mask],
        mask[None],
        torch.from_numpy(mask),
        torch.from_numpy(mask).permute(2, 0, 1),
        Image.fromarray(mask),
    )
    for given in (*kinds, str(tmp_path / "mask.png"), np.dstack([mask, mask[..., 0]])):
        with pytest.raises(ValueError, match=r"map 0 .*has colours.*Map each colour to its id"):
            processor(picture(), given)
    with pytest.raises(ValueError, match=r"map 1 .*has colours"):
        processor([picture()] * 2, [np.zeros((37, 53), np.uint8), mask])


def test_arguments_are_in_the_order_of_stock_processors(processor):
    """`processor(images, segmentation_maps)`, as SegFormer's and DPT's users write it; a second frame is no map."""
    labels = np.ones((2, 37, 53), np.uint8)
    result = processor([picture()] * 2, [Image.fromarray(labels[0])] * 2, return_tensors="np")
    assert set(result) == {"pixel_values", "labels"} and result["labels"].dtype == np.int64
    assert set(processor([picture()] * 2, labels)) == {"pixel_values", "labels"}
    with pytest.raises(ValueError, match="second_images"):
        processor(picture(seed=1), picture(seed=2))


@pytest.mark.parametrize("at_construction", [True, False])
def test_do_reduce_labels_as_segformer(at_construction, tmp_path):
    from transformers import SegformerImageProcessorPil

    labels = np.random.default_rng(0).integers(0, 151, (37, 53)).astype(np.uint8)
    labels[0, :3] = 0, 255, 1
    given, options = ({"do_reduce_labels": True}, {}) if at_construction else ({}, {"do_reduce_labels": True})
    mine = WinWinImageProcessor(**given)
    mine.save_pretrained(tmp_path)
    mine = WinWinImageProcessor.from_pretrained(tmp_path)
    before = labels.copy()
    found = mine(picture(), labels, return_tensors="pt", **options).labels[0, :37, :53]
    assert found[0, :3].tolist() == [255, 255, 0] and np.array_equal(labels, before)
    many = mine(picture(), labels.astype(np.int64) + 200, return_tensors="pt", **options, ignore_index=-100).labels
    assert many[0, 0, 2] == 200 and many[0, -1, -1] == -100  # above 255, with another label for "ignore"
    unchanged = mine(picture(), labels, return_tensors="pt", do_reduce_labels=False).labels[0, :37, :53]
    assert np.array_equal(unchanged.numpy(), labels)
    try:
        theirs = SegformerImageProcessorPil(do_resize=False, **given)
    except ImportError:
        pytest.skip("transformers before 5.23 has SegFormer's processor with torchvision only")
    assert torch.equal(found, theirs(picture(), labels.copy(), return_tensors="pt", **options).labels[0])


@pytest.mark.parametrize("ignored", [255, -100, 0])
def test_ignore_index_pads_and_stays(ignored):
    labels = np.full((37, 53), 7)
    labels[0, 0] = ignored
    found = WinWinImageProcessor(ignore_index=ignored)(picture(), labels, return_tensors="pt").labels[0]
    assert found[0, 0] == ignored and (found[37:] == ignored).all() and (found[1:37, :53] == 7).all()


def test_save_and_load(tmp_path):
    WinWinImageProcessor(do_resize=True, size={"shortest_edge": 64}, patch_size=8).save_pretrained(tmp_path)
    loaded = WinWinImageProcessor.from_pretrained(tmp_path)
    assert loaded.patch_size == 8 and dict(loaded.size) == {"shortest_edge": 64} and loaded.do_resize
    assert loaded(images=picture(), return_tensors="pt").pixel_values.shape[-2:] == (64, 96)


def test_auto_image_processor(tmp_path):
    from transformers import AutoImageProcessor

    import winwin_hf  # noqa: F401 - registers with the Auto classes

    WinWinImageProcessor(patch_size=8).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is WinWinImageProcessor and loaded.patch_size == 8


def test_full_hd_is_silent(processor):
    image = picture(1080, 1920)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(images=image, second_images=image, return_tensors="pt")


def test_a_wrong_size_is_said_without_what_was_not_given():
    with pytest.raises(ValueError, match=r"^size=\{'shortest_edge': -3\}: expected numbers from 1 to 65536\.$"):
        WinWinImageProcessor()(picture(), do_resize=True, size={"shortest_edge": -3})
