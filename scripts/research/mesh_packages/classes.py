"""Which class a model belongs to, from the words of its name, and how large things of a class are."""

from __future__ import annotations

import re

CLASSES = (
    *("person", "animal", "car", "truck", "motorcycle", "bicycle", "tree", "bush", "building", "pole", "sign", "fence"),
    *("bench", "rock", "boat", "plane", "chair", "table", "sofa", "bed", "cabinet", "lamp", "appliance", "plant"),
    *("door", "window", "carpet", "thing", "other"),
)
LEFT_OUT = "left out"

# The first line with one of the words decides. A phrase may have a plural "s"; "~" stands for any letters.
FURNITURE = """
table: glass table, football table
cabinet: glass door cabinet
door: glass door, elevator door, screen door, shower door
thing: deer, hot dog, roasted chicken, woman shoes, skateboard, tv remote control, table tennis bat, hanging clothes
other: child hut, chimney, indoor bike, dog house, aquarium
chair: piano bench, wheelchair
appliance: island bath, chest freezer, apple i mac, apple i book, toilets unit, propane stove
plant: bonsai tree, plant box, flower box
car: seat leon
left out: barnum, plug, switch, socket, bill, parking slot, pedestrian crossing, arrow~, concrete sidewalk, rails
left out: swimming pool, contemporary living room, shower curtain, towel rack, smoke detector
lamp: light, lamp, lantern, chandelier, spotlight, fluorescent strip, candle, flashlight
table: pool table, football table, table tennis, dressing table, changing table, desk table, coffee table, bar table
thing: table tennis bat, table fan, dart game, clothes basket, watch, rocking horse, doll house, knife stand
thing: clothes horse, sponge, car model, toy, punching ball, box, basket, basketball, flower pot, kitchen scale
thing: toilet brush, toilet paper, salad, baby bottle, bottle, glasses, glass, plate
window: window, window blind, window shutter, curtain
door: door, french window, elevator door
bed: bed, crib, futon, mattress, hammock, sleeping bag
sofa: sofa, couch, day bed, bank, puff
chair: chair, armchair, stool, seat, ottoman, lounge
bench: bench, abdominal bench
cabinet: cabinet, wardrobe, bookcase, shelves, cupboard, dresser, chest, vanity, locker, tv stand, rack, drawers
table: table, desk, workbench, island, island extension
appliance: fridge, refrigerator, oven, stove, cooker, cooktop, washing machine, dryer machine, tv, laptop
appliance: laptop, microwave, sink, bath, bathtub, washbasin, basin, bidet, toilet, toilets unit, urinal
appliance: shower stall, hood, freezer, furnace, boiler, heater, radiator, air conditioning, blender, toaster, mixer
appliance: coffee maker, fan, coffee machine, coffee brewer, deep fryer, printer, speaker, amplifier, stereo
appliance: dvd player, projector, water cooler, jacuzzi, lavatory, grill, sandwich maker, screen and keyboard, radio
appliance: fireplace, shower~
animal: chicken, horse, bulldog, cat, dog, rabbit, deer, siamese cat
person: male, female, boy, girl, mannequin, woman, man
truck: truck, bus, fork lift, van
motorcycle: motorbike, yamaha, scooter
bicycle: bicycle, bike, tricycle
car: sedan, focus, beetle, leon, peugeot, renault, suv, chevrolet, smart car
boat: rowboat
plane: biplane
pole: lamppost, street lamp, street light, park light, porch column
sign: emergency sign, sign
fence: fence, railing, rail crossing
rock: rock
bush: bush, hedge
tree: acacia, blue pine, coconut tree, beech, cypress, maple, poplar, palm, palm tree, peach blossom, pine, tree
plant: plant, ficus, bamboo, cactus, bonsai, flowers, orchid, tulip, lily, spathiphyllum, yucca, flower box
building: garden hut, camping tent
carpet: carpet, rug, doormat, tatami, bathmat
other: stair~, escalator, elevator, piano, fountain, football goal, football table, seesaw, swing, trampoline
other: sandpit, treadmill, fitness tower, shipping container, children game, diving board, step ladder, snowman
other: mower, flipper, wheelbarrow, stroller, umbrella, screen, porch light, island, white board, hydrant, hose reel
"""
FURNITURE_EXCEPTIONS = {  # the model's file name, where the displayed name misleads
    "classic-lamppost": "pole",
    "park-light": "pole",
    "farola1": "pole",
    "candelabre": "pole",
    "car-model": "thing",
    "scooter": "motorcycle",
    "ficusTree": "tree",
    "bamboo": "tree",
    "littlebank": "bench",
    "wood_bank": "bench",
    "ext_table": "table",
    "arbolito": "plant",
    "abdominalBench": "other",
    "motorbike": "other",
    "rattanTable": "table",
}
FURNITURE_CATEGORIES = {"Lights": "lamp", "Doors and windows": "window", "Vehicles": "car", "Characters": "person"}

# Actors of units and fauna in 0ad-data.
UNITS = """
left out: r, d, packed, pivot, siege, ram, shoal, circle, flaming, fin, tower, dead, test, rider, driver
boat: trireme, bireme, quinquereme, ship, boat, merchant, juggernaut, pentekonter
animal: mastiff, dog, h
person: infantry, operator
other: hero elephantry, trader, chariot, ballista, oxybeles, scorpion, catapult, lithobolos, cart, wagon, bolt, polybolos
animal: m, horse, camel, elephant, cavalry
"""
STRUCTURES = """
left out: merchant sail
other: gravestone, statue~, bixie
boat: rowboat, warship, merchantman, trireme, bireme, quinquereme, merchant, fishing ship, fireship, longship
boat: pentekonter, ship, boat
other: siege~
left out: field, decal, foundation, fndn, fnd, rubble, destruct~, scaffold~, plan, test, water~, wall~, palisade~
left out: struct, prop, actor, placeholder, blank, flag, columns, construction~, plot, sb, uber, tree, wonder ground
left out: ashlar
"""
EYECANDY = """
left out: cliffs, berries, apples, pond, prop, windswept, acacia large
left out: decal, ground, road, path, puddles, water, waves, runway, tile~, dummy, delimitator, test, biome, grain
left out: field, dirt, buried, floating, awning, leaves, needles, branches, deadbranches, top, cap, shadow, stem
left out: patch, grass~, woodbit, edge, shields, detail, effect, smoke, light, sail, deco~, lily~, lotus, seaweed
left out: kelp, carpet, ivy, vines, clump, reeds, reed, flowers, flower, plants, lawn, wheat, rice, corn, forest
left out: deci, spirit, base
bush: bush~, shrub~, fern~, lavender, juniper, agave, cactus
bench: bench
table: table~, tables
cabinet: sword rack
fence: fence~, palisade
pole: column, obelisk
boat: shipwreck
building: temple, colonnade
other: statue~, handcart, cart, well, campfire, skeleton, chariot, snowman, iceberg, blocks, block, pile
other: standing stones
thing: amphora~, anvil, barrel~, basket~, box~, crate~, sack, brick, vase~, bin, wood, hay, treasure~, heap, rug
thing: plank, wheel
tree: cypress, tree, palm, pine, oak, bamboo
"""
# Objects of torcs-data.
SCENERY = """
left out: forest, bridge~, stand wall, stand inter, stadium, stand main, needle
tree: tree, treeg
building: building
sign: ad
"""
# Folders of supertuxkart-data's library.
KART_LIBRARY = """
left out: sky beam, neon arrow, cartraffic, rocket booster, flags, flag, vertical, reef, grid, cliff~, jet blast
left out: light flash, support beam, rail landscape, anim grass, low anim grass, liana, balcony, alcove, screen mail
left out: moving map plane, seaweed, roots, light bulb group, projector, ferry wheels, xmas light, pink ribbon
left out: papi airport, departure airport, advertising~, camera rig, guardian male, speed trap, dead branch, candle, chimney
left out: fish skeleton, fence gate, future light, runway beacon, industrial lamp, oldschool lamp, aztek torch, classchair
left out: chest top, water lily
person: girl, guy, women
other: poseidon, mermaid, wilbert security, tree stump, radio tower, love gate, welcome aboard
animal: animal pig, bird, butterfly, gnu, kiki, konqi, monkey, crab, parrot, piranha
tree: tree, pinetree, palm tree, accacia, birch, willow, cypress
bush: bush, fern, agave, sagebrush, cattail, corn plant, tropical plant
building: house, hut, igloo, lodge, housing, kiosk, tower, watertower, radio tower, windpump, chimney, tori~, gate
building: portal
lamp: chinese red lantern, asian lantern, candle, bug lamp, library lamp, mine lantern, old lantern, storm lantern
lamp: sea lantern, industrial lamp, love lantern
pole: street lamp, lamp, post, semaphore, torch, runway beacon, future light
fence: fence, barrier, log barrier
bench: bench
chair: armchair, chair, classchair
boat: boat
plane: hexajet, trijet, blimp
truck: tv van, combine harvester, steam locomotive
car: old car
rock: rocks, snow rocks, tetrapod
cabinet: chest~, wood old chest
appliance: computer, air conditioner, loudspeaker
sign: mailbox sign
thing: vase, cabbage, carrot, barrel, plastic bag, gramophone, hay ball, lantern, luggage, cocktail, pallet, pumpkin
thing: shell, mushroom, smartphone, easel, sand castle, pencil~, jack olantern, red shell, mudpot, tire~
thing: mailbox
"""
# Meshes of its tracks and models; only what has one of the words is taken.
KART_TRACKS = """
left out: track, field, water, bubble, invisible, physics, start, wall, road, grass, garden, key, lid, hit
left out: dinosaur, warning sign, crystal ball, golfball cannon, low, swatter, ruler, anim
animal: duck, nessy
person: sara
tree: fir tree, ekasia tree, pine tree, sakura pine, tree mod, treelow
bush: cactus, fern
bench: bench
chair: chair
table: desk, house table
bed: bed
cabinet: chest
sign: wooden sign
boat: shipwreck
building: wood lodge
other: rocket, cart, cannon, roller coaster train, gondola
thing: christmas hat, log, anchor, banana, bomb, bowling, cake, gift box, easter egg, tire, trophy
thing: nitrotank, plunger, rubber ball, soccer ball, beachball, golfball, coconut, skull, teller, topf, balloon
thing: woodpile, box, wooden box
"""

# Metres: "height", "longest" or "length" of a class, for models without a unit.
SIZES: dict[str, tuple[str, float]] = {
    "person": ("height", 1.75),
    "animal": ("longest", 1.5),
    "car": ("longest", 4.4),
    "truck": ("longest", 8.0),
    "motorcycle": ("longest", 2.1),
    "bicycle": ("longest", 1.75),
    "tree": ("height", 7.0),
    "bush": ("height", 1.1),
    "building": ("longest", 14.0),
    "pole": ("height", 4.5),
    "sign": ("height", 2.2),
    "fence": ("longest", 3.0),
    "bench": ("longest", 1.6),
    "rock": ("longest", 1.5),
    "boat": ("longest", 9.0),
    "plane": ("longest", 9.0),
    "chair": ("height", 0.9),
    "table": ("height", 0.75),
    "sofa": ("longest", 2.0),
    "bed": ("longest", 2.0),
    "cabinet": ("height", 1.4),
    "lamp": ("height", 0.6),
    "appliance": ("height", 0.85),
    "plant": ("height", 0.6),
    "door": ("height", 2.1),
    "window": ("height", 1.2),
    "carpet": ("longest", 2.0),
    "thing": ("longest", 0.4),
    "other": ("longest", 2.0),
}
# Metres: the length from head to tail, or the height where it is larger.
ANIMALS = {
    "baby elephant": 2.0, "elephant": 5.0, "baby giraffe": 2.2, "giraffe": 4.8, "whale": 12.0, "shark": 4.0, "rhino": 3.6,
    "hippopotamus": 3.4, "crocodile": 3.5, "walrus": 3.0, "camel": 2.8, "dragon": 5.0, "bear": 1.9, "muskox": 2.2,
    "wildebeest": 2.1, "zebra": 2.3, "pony": 1.9, "donkey": 1.9, "horse": 2.4, "bull": 2.4, "cow": 2.3, "cattle": 2.3,
    "zebu": 2.3, "mastiff": 1.2, "tiger": 2.6, "lioness": 2.3, "lion": 2.5, "deer": 1.9, "gazelle": 1.3, "boar": 1.4,
    "piglet": 0.6, "pig": 1.3, "wolf": 1.5, "dog": 1.1, "sheep": 1.2, "goat": 1.2, "fox": 1.0, "peacock": 1.8,
    "chicken": 0.45, "rabbit": 0.4, "crow": 0.5, "hawk": 1.1, "seagull": 1.2, "tuna": 1.8, "fish": 0.5, "duck": 0.5,
    "penguin": 0.8, "cat": 0.5, "frog": 0.3, "bird": 0.5, "owl": 0.5, "snail": 0.3, "butterfly": 0.2, "gnu": 1.6,
}  # fmt: skip


def words_of(name: str) -> str:
    """The name in lower case, words apart: "oldBarrel_02" becomes "old barrel"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[^a-z]+", " ", name.lower()).split())


def first_match(name: str, table: str) -> str | None:
    """The class of the first line of which a word is in the name."""
    words = words_of(name)
    for class_name, line in (row.split(": ") for row in table.strip().splitlines()):
        phrases = (words_of(phrase) + ("[a-z]*" if phrase.endswith("~") else "s?") for phrase in line.split(", "))
        if re.search(rf"\b(?:{'|'.join(phrases)})\b", words):
            return class_name
    return None


def furniture_class(name: str, category: str, file: str) -> str | None:
    """The class of an entry of a furniture catalogue; None: it isn't a solid object that stands for itself."""
    stem = file.rpartition("/")[2].partition(".")[0]
    found = FURNITURE_EXCEPTIONS.get(stem) or first_match(name, FURNITURE)
    return None if found == LEFT_OUT else found or FURNITURE_CATEGORIES.get(category, "thing")


def animal_length(name: str, default: float = SIZES["animal"][1]) -> float:
    """Metres of the first animal of the table in the name."""
    words = words_of(name)
    for animal, metres in ANIMALS.items():
        if all(re.search(rf"\b{word}", words) for word in animal.split()):
            return metres
    return default


def usual_size(class_name: str, name: str) -> tuple[float | None, float | None, float | None] | float:
    """What `Item.size` is for a model without a unit."""
    if class_name == "animal":
        return animal_length(name)
    axis, metres = SIZES[class_name]
    return (None, metres, None) if axis == "height" else metres
