"""Push a model, a data set or a Space: `python scripts/push_to_hub.py winwin-flow OWNER/NAME --dry-run`. The same as `winwin push`."""

import typer

from winwin_hf.cli.push import push

if __name__ == "__main__":
    typer.run(push)
