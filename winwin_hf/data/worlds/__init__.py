"""Three-dimensional worlds of triangle meshes, with exact flow, depth and classes, of which only the asked pixels are rendered."""
