"""All and only the files that travel beside weights: config, networks, image processor, pipeline, losses."""
