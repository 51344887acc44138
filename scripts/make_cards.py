"""Make the bundled checkpoints' cards and MODEL_CARD.md again from what is known: `python scripts/make_cards.py`."""

from pathlib import Path

from winwin_hf.hub.cards import make_bundled_cards

if __name__ == "__main__":
    for path in make_bundled_cards(Path(__file__).resolve().parents[1] / "MODEL_CARD.md"):
        print(path)
