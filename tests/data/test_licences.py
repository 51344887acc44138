"""Licences of training data, and of weights that were trained on them."""

import pytest

from winwin_hf.data.licences import UNKNOWN_PHOTOGRAPHS, terms_of_set, terms_of_weights


def test_sets_with_a_licence_of_the_hub():
    spring = terms_of_set("spring")
    assert (spring.licence, spring.restricted, spring.unknown) == ("cc-by-4.0", False, False)
    assert terms_of_set("camvid").licence == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    "name",
    ["kitti-2015", "flying-chairs", "camvid", "ade20k", "bdd100k", "seven-scenes", "cityscapes", "labelme-facade"],
)
def test_no_commercial_use(name):
    terms = terms_of_set(name)
    assert terms.restricted
    assert "nc" in terms.licence.split("-") or "non-commercial" in terms.licence_name, "the metadata says so too"


def test_textures_of_synthetic_scenes():
    plain = terms_of_set("synthetic-flow")
    assert (plain.licence, plain.restricted, plain.unknown) == ("apache-2.0", False, False)
    free = terms_of_set("synthetic-flow", photographs="Kodak's photographs (unrestricted)")
    assert free.licence == "apache-2.0" and "Kodak" in free.text
    unknown = terms_of_set("synthetic-flow", photographs=UNKNOWN_PHOTOGRAPHS)
    assert (unknown.licence, unknown.unknown) == ("other", True)
    assert "The licence of these photographs is unknown" in unknown.text
    rooms = terms_of_set("synthetic-depth", photographs="photographs (CC BY-NC)")
    assert (rooms.licence, rooms.licence_name) == ("other", "as-the-training-data-non-commercial")
    assert rooms.restricted and "rooms with exact depth" in rooms.text


def test_data_of_ones_own():
    there = terms_of_set("hub", "them/set")
    assert there.licence == "other" and "them/set" in there.text and not there.unknown
    assert terms_of_set("shards").unknown


def test_weights_carry_the_terms_of_all_their_data():
    sets = {name: terms_of_set(name) for name in ("spring", "kitti-2015")}
    mixed = terms_of_weights(sets)
    assert mixed.licence_name == "as-the-training-data-non-commercial"
    assert mixed.restricted and "spring: " in mixed.text and "kitti-2015: " in mixed.text
    one = terms_of_weights({name: terms_of_set(name) for name in ("seven-scenes", "synthetic-depth")})
    assert one.licence_name == "7-scenes-research-non-commercial", "synthetic rooms add nothing"
    started = terms_of_weights({"spring": sets["spring"]}, first_weights=True)
    assert (started.licence, started.licence_name) == ("other", "as-the-training-data-and-the-first-weights")
