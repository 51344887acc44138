"""A recipe that takes seconds."""

SETTINGS = {"height": 90, "width": 130, "texture_count": 2}
RECIPE = {
    "task": "optical-flow",
    "model": {
        "config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 1,
            "head_hidden_size": 16,
        }
    },
    "data": {"name": "synthetic-flow", "settings": SETTINGS},
    "windows": {"kind": "windows", "size": [2, 2]},
    "optimization": {"batch_size": 2, "num_workers": 0},
    "evaluation": {"windows": 3, "sets": [{"label": "a", "length": 2}, {"label": "b", "length": 1}]},
}
