"""What a training costs before it is run: `count` counts one step of the real model, `plan` turns that into hours, memory and bytes."""
